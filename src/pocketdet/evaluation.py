"""How good a detector is, by the rules of COCO and of VOC: of any predictor, whatever its file format."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import box_iou
from pocketdet.core.detections import Detections
from pocketdet.datasets.records import Dataset, Record
from pocketdet.errors import DataError

VOC_IOU_THRESHOLD = 0.5
COCO_SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # areas in image pixels


class ClassResult(NamedTuple):
    """One class; the figures are ``None`` where the data set has no target of it that counts."""

    name: str
    targets: int  # without difficult ones
    ap: float | None
    ap50: float | None
    voc_ap50: float | None  # area under the curve


class SizeResult(NamedTuple):
    """Objects of one of COCO's three sizes."""

    name: str  # small, medium, large
    targets: int  # without difficult ones
    ap: float | None  # at IoU 0.50:0.95; None without targets


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Average precision, 0 to 1: means over the classes that have targets.

    Args:
        ap: COCO's AP at IoU 0.50:0.95, at most 100 detections a picture.
        ap50: COCO's AP at IoU 0.50.
        ap75: COCO's AP at IoU 0.75.
        voc_ap50_area: VOC's AP at IoU 0.50, area under the curve (VOC2010 and later).
        voc_ap50_11point: VOC's AP at IoU 0.50, mean of 11 precisions (VOC2007).
        per_class: In the order of the class ids.
        by_size: Small, medium and large objects: below 32², below 96² and from 96² image pixels on.
        num_pictures: That were evaluated.
        num_targets: Without difficult ones, which are neither missed nor found.
        milliseconds_per_picture: Median time of one prediction.
        detections: One for each picture, in the order of the data set and with its class ids, without pixels.
    """

    ap: float
    ap50: float
    ap75: float
    voc_ap50_area: float
    voc_ap50_11point: float
    per_class: tuple[ClassResult, ...]
    by_size: tuple[SizeResult, ...]
    num_pictures: int
    num_targets: int
    milliseconds_per_picture: float
    detections: tuple[Detections, ...] = dataclasses.field(repr=False, compare=False)

    def to_dict(self) -> dict[str, object]:
        """The figures as plain values for JSON, keys as the attributes."""
        figures = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "detections"}
        lists = {name: [result._asdict() for result in figures[name]] for name in ("per_class", "by_size")}
        return figures | lists

    def to_text(self) -> str:
        """A table for people, in percent."""
        rows: list[tuple[str, ...]] = [("class", "objects", "AP", "AP50", "VOC AP50")]
        rows += [(c.name, str(c.targets), *map(_percent, (c.ap, c.ap50, c.voc_ap50))) for c in self.per_class]
        rows.append(("mean", str(self.num_targets), *map(_percent, (self.ap, self.ap50, self.voc_ap50_area))))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        return "\n".join(
            [
                *lines[:-1],
                "-" * len(lines[0]),
                lines[-1],
                "",
                "AP of "
                + ", ".join(f"{size.name} objects {_percent(size.ap)} ({size.targets})" for size in self.by_size)
                + "; below 32², below 96² and above, in pixels of the picture.",
                f"AP75 {_percent(self.ap75)}, VOC AP50 by 11 points {_percent(self.voc_ap50_11point)}; all in percent.",
                "AP (mean over IoU 0.50 to 0.95) and AP50 by COCO's rules, VOC AP50 by VOC's (area under the curve).",
                f"{self.num_pictures} pictures, {self.milliseconds_per_picture:.1f} ms a picture (median).",
            ]
        )


def evaluate(
    predict: Callable[[Record], Detections], dataset: Dataset, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Run a detector over a data set and compare its detections with the targets.

    Classes are matched by name: detections of classes that the data set does not list are left out, and targets of
    classes that the detector does not know are missed.

    Args:
        predict: Detects in one picture, in image pixels. A low score threshold (0.001 to 0.01) shows the whole curve.
        dataset: One split.
        progress: Called after each picture with the number done and the number of all.

    Raises:
        DataError: There is nothing to measure: no pictures, no targets, or no class in common.
    """
    counted = sum(int((~record.difficult).sum()) for record in dataset.records)
    if not counted:
        raise DataError(
            f"the data set has {len(dataset.records)} pictures and no objects in them, difficult ones aside; "
            "average precision needs labelled objects: choose another split"
        )
    found: list[Detections] = []
    seconds: list[float] = []
    for record in dataset.records:
        start = time.perf_counter()
        detections = predict(record)
        seconds.append(time.perf_counter() - start)
        # The picture itself, kept for drawing, would fill the memory.
        found.append(dataclasses.replace(_with_ids_of(dataset, detections), image=None))
        if progress:
            progress(len(found), len(dataset.records))
    return _score(found, dataset, counted, float(np.median(seconds) * 1000))


def _with_ids_of(dataset: Dataset, detections: Detections) -> Detections:
    """The detections with the data set's class ids instead of the detector's."""
    if detections.names == dataset.class_names:
        return detections
    place = {name: class_id for class_id, name in enumerate(dataset.class_names)}
    if not place.keys() & set(detections.names):
        raise DataError(
            f"the detector finds {', '.join(detections.names)}; the data set labels {', '.join(dataset.class_names)}; "
            "not one class is the same: choose the detector or the data set that belongs to the other"
        )
    table = np.array([place.get(name, -1) for name in detections.names], np.int64)
    class_ids = table[detections.class_ids]
    keep = class_ids >= 0
    return dataclasses.replace(
        detections,
        boxes=detections.boxes[keep],
        scores=detections.scores[keep],
        class_ids=class_ids[keep],
        names=dataset.class_names,
    )


def _score(found: Sequence[Detections], dataset: Dataset, counted: int, milliseconds: float) -> Evaluation:
    every_size = _coco_precision(found, dataset)
    precision = every_size[..., 0]
    ap = [_mean(precision[:, :, k]) for k in range(len(dataset.class_names))]
    ap50 = [_mean(precision[0, :, k]) for k in range(len(dataset.class_names))]
    curves = [voc_curve(found, dataset, class_id) for class_id in range(len(dataset.class_names))]
    area = [None if curve is None else _area(curve) for curve in curves]
    eleven = [None if curve is None else _eleven_points(curve) for curve in curves]
    targets = [
        sum(int(((r.class_ids == class_id) & ~r.difficult).sum()) for r in dataset.records)
        for class_id in range(len(dataset.class_names))
    ]
    return Evaluation(
        ap=_mean(precision) or 0.0,
        ap50=_mean(precision[0]) or 0.0,
        ap75=_mean(precision[5]) or 0.0,
        voc_ap50_area=float(np.mean([value for value in area if value is not None])),
        voc_ap50_11point=float(np.mean([value for value in eleven if value is not None])),
        per_class=tuple(
            ClassResult(*values) for values in zip(dataset.class_names, targets, ap, ap50, area, strict=True)
        ),
        by_size=tuple(
            SizeResult(name, _count_of_size(dataset, *limits), _mean(every_size[..., number]))
            for number, (name, limits) in enumerate(COCO_SIZES.items(), start=1)
        ),
        num_pictures=len(dataset.records),
        num_targets=counted,
        milliseconds_per_picture=milliseconds,
        detections=tuple(found),
    )


def _count_of_size(dataset: Dataset, smallest: float, largest: float) -> int:
    """Targets that count, with an area from ``smallest`` to below ``largest``, in image pixels."""
    count = 0
    for record in dataset.records:
        area = np.prod(record.boxes[:, 2:] - record.boxes[:, :2], axis=1)
        count += int(((area >= smallest) & (area < largest) & ~record.difficult).sum())
    return count


def _coco_precision(found: Sequence[Detections], dataset: Dataset) -> NDArray[np.float64]:
    """Precisions ``(10 IoU thresholds, 101 recalls, K, 4 sizes: all, small, medium, large)``.

    -1 stands where a class has no targets. Difficult is COCO's crowd.
    """
    import hotcoco  # needed only here

    annotations: list[dict[str, object]] = []
    rows = [np.zeros((0, 7))]  # picture, x, y, width, height, score, class: COCO's result array
    for number, (record, detections) in enumerate(zip(dataset.records, found, strict=True)):
        for box, class_id, difficult in zip(_xywh(record.boxes), record.class_ids, record.difficult, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(class_id),
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(difficult),
                }
            )
        column = np.full((len(detections), 1), number)
        rows.append(
            np.hstack((column, _xywh(detections.boxes), detections.scores[:, None], detections.class_ids[:, None]))
        )
    images = [{"id": n, "height": d.image_size[0], "width": d.image_size[1]} for n, d in enumerate(found)]
    categories = [{"id": class_id, "name": name} for class_id, name in enumerate(dataset.class_names)]
    truth = hotcoco.COCO({"images": images, "annotations": annotations, "categories": categories})
    measure = hotcoco.COCOeval(truth, truth.load_res(np.concatenate(rows)), "bbox")
    measure.evaluate()
    measure.accumulate()
    assert measure.eval is not None
    precision: NDArray[np.float64] = measure.eval["precision"][..., 2]  # at most 100 detections a picture
    return precision


def _xywh(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    xyxy = boxes.astype(np.float64)
    return np.hstack((xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]))


class Curve(NamedTuple):
    """One value per detection that is not ignored, best score first."""

    scores: NDArray[np.float32]
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]


def voc_curve(found: Sequence[Detections], dataset: Dataset, class_id: int) -> Curve | None:
    """Recall and precision of one class at IoU 0.50, by VOC's rules; ``None`` where no target counts.

    Each detection looks at the one target that it overlaps most. Below the threshold it is false; on a difficult target
    it is ignored; the best score on a target is true and every further one false.
    """
    scores, places = [], []  # places: -1 false, -2 ignored, else the number of the target
    counted = first = 0
    for record, detections in zip(dataset.records, found, strict=True):
        wanted, mine = record.class_ids == class_id, detections.class_ids == class_id
        place = np.full(int(mine.sum()), -1)
        if wanted.any() and mine.any():
            overlap = box_iou(detections.boxes[mine], record.boxes[wanted])
            best = overlap.argmax(axis=1)
            place = np.where(record.difficult[wanted][best], -2, first + best)
            place[overlap.max(axis=1) < VOC_IOU_THRESHOLD] = -1
        first += int(wanted.sum())
        counted += int((wanted & ~record.difficult).sum())
        scores.append(detections.scores[mine])
        places.append(place)
    if not counted:
        return None
    score, place = np.concatenate(scores), np.concatenate(places)
    order = np.argsort(-score, kind="stable")
    order = order[place[order] != -2]
    place = place[order]
    is_true = np.zeros(len(place), bool)
    is_true[np.unique(place, return_index=True)[1]] = True  # the first detection on each target
    is_true &= place >= 0
    hits = np.cumsum(is_true)
    return Curve(score[order], hits / counted, hits / np.arange(1, len(place) + 1))


def _area(curve: Curve) -> float:
    """VOC2010's AP: the area under the precision, made to fall monotonically."""
    falling = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return float(np.sum(np.diff(curve.recall, prepend=0) * falling))


def _eleven_points(curve: Curve) -> float:
    """VOC2007's AP: the mean of the best precision at recall 0, 0.1 to 1 or more."""
    return float(np.mean([curve.precision[curve.recall >= n / 10].max(initial=0) for n in range(11)]))


def _mean(precision: NDArray[np.float64]) -> float | None:
    """COCO's mean: -1 stands for no targets."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
