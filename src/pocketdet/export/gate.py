"""The gate: an exported file has to compute what its checkpoint computes, on real pictures."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import Decoded, Floats, LevelLogits, box_iou, decode_picture, sigmoid
from pocketdet.core.images import read_image
from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.records import Dataset
from pocketdet.errors import ExportError
from pocketdet.evaluation import evaluate
from pocketdet.export.conversion import Precision
from pocketdet.runtime.backends import Backend
from pocketdet.runtime.boxes import find_boxes
from pocketdet.runtime.predictor import IOU_THRESHOLD, Predictor

MAX_AP_DIFFERENCE = 0.001  # 0.1 point
MAX_INT8_AP50_DIFFERENCE = 0.01  # 1 point
MAX_BOX_DIFFERENCE = 0.5  # input pixels
MAX_SCORE_DIFFERENCE = 0.01
# Raw outputs this near each other differ by round-off alone. The AP of a young detector, many of whose scores are
# nearly equal, changes with their order all the same.
ROUND_OFF = 1e-4
# The best boxes of each picture are compared, however low their scores: a young detector has no high ones.
SCORE_THRESHOLD = 0.001
BOXES_PER_PICTURE = 100
# Objects as people see them: with scores above the first; the other network's partner may have less.
OBJECT_SCORE = 0.3
PARTNER_SCORE = 0.1
PARTNER_IOU = 0.5


@dataclasses.dataclass(frozen=True)
class GateReport:
    """How far a file is from its checkpoint; the largest difference over all pictures.

    Args:
        num_pictures: That both have seen.
        max_output_difference: Of the raw outputs, logits; of a file that decodes them the larger of the next two.
        max_box_difference_px: Of a corner of the best boxes, input pixels.
        max_score_difference: Of objectness x class probability, over all cells.
        checkpoint_ap: COCO's AP of the checkpoint on these pictures; ``None`` without a data set.
        file_ap: The file's.
        checkpoint_ap50: As ``checkpoint_ap``, at IoU 0.5.
        file_ap50: The file's.
        max_object_box_difference_px: Of a corner of an object that both find, after NMS, with a score above 0.3.
        max_object_score_difference: Of the score of such an object.
        num_objects: That both find.
        num_unmatched: That one of them finds with a score above 0.3, and the other not even with 0.1.
    """

    num_pictures: int
    max_output_difference: float
    max_box_difference_px: float
    max_score_difference: float
    checkpoint_ap: float | None = None
    file_ap: float | None = None
    checkpoint_ap50: float | None = None
    file_ap50: float | None = None
    max_object_box_difference_px: float = 0.0
    max_object_score_difference: float = 0.0
    num_objects: int = 0
    num_unmatched: int = 0

    @property
    def ap_difference(self) -> float | None:
        """The file's AP less the checkpoint's; ``None`` without a data set."""
        return None if self.file_ap is None or self.checkpoint_ap is None else self.file_ap - self.checkpoint_ap

    @property
    def ap50_difference(self) -> float | None:
        """The file's AP50 less the checkpoint's; ``None`` without a data set."""
        if self.file_ap50 is None or self.checkpoint_ap50 is None:
            return None
        return self.file_ap50 - self.checkpoint_ap50

    def with_larger(self, other: "GateReport") -> "GateReport":
        """With the other's largest differences where they are larger, or no number."""
        largest: dict[str, Any] = {
            field.name: float(np.maximum(getattr(self, field.name), getattr(other, field.name)))
            for field in dataclasses.fields(self)
            if field.name.startswith("max_")
        }
        return dataclasses.replace(self, **largest)

    def to_metrics(self) -> dict[str, float]:
        """What goes into the file's metadata."""
        figures = {
            "gate_pictures": self.num_pictures,
            "gate_max_output_difference": self.max_output_difference,
            "gate_max_box_difference_px": self.max_box_difference_px,
            "gate_max_score_difference": self.max_score_difference,
            "gate_max_object_box_difference_px": self.max_object_box_difference_px,
            "gate_max_object_score_difference": self.max_object_score_difference,
            "gate_objects": self.num_objects,
            "gate_unmatched_objects": self.num_unmatched,
            "gate_ap_difference": self.ap_difference,
            "gate_ap50_difference": self.ap50_difference,
        }
        return {key: value for key, value in figures.items() if value is not None}

    def check(self, precision: Precision = "float32", allow_drift: bool = False) -> None:
        """Raise where the file is too far from its checkpoint.

        Args:
            precision: "int8" is judged by AP50 alone, because each of its values is rounded.
            allow_drift: Let an int8 file pass.

        Raises:
            ExportError: It names every figure over its limit.
        """
        ap_off = 0.0 if self.max_output_difference <= ROUND_OFF else abs(self.ap_difference or 0.0)
        figures = [
            ("a box", self.max_box_difference_px, MAX_BOX_DIFFERENCE, " pixels"),
            ("a score", self.max_score_difference, MAX_SCORE_DIFFERENCE, ""),
            ("AP", ap_off, MAX_AP_DIFFERENCE, ""),
        ]
        way_out = "please report the model and the versions of torch and of the format's packages"
        if precision == "int8":
            # A better AP50 is no harm. A difference that is no number is one, with a data set and without.
            loss = 0.0 if allow_drift else -(self.ap50_difference or 0.0)
            figures = [("AP50", loss + 0 * self.max_output_difference, MAX_INT8_AP50_DIFFERENCE, "")]
            way_out = "give more or other calibration pictures, or --allow-drift if you accept that"
        # "Not within" also catches a difference that is no number.
        failed = [f"{what} is off by {off:.4g}{unit} (limit {limit})" for what, off, limit, unit in figures
                  if not off <= limit]  # fmt: skip
        if failed:
            raise ExportError(
                f"the exported file does not compute what the checkpoint computes: {'; '.join(failed)}, "
                f"on {self.num_pictures} pictures; no file was kept; {way_out}"
            )


def compare(checkpoint: Backend, file: Backend, pictures: Sequence[Path], dataset: Dataset | None = None) -> GateReport:
    """Run both on the same pictures.

    Args:
        checkpoint: The truth.
        file: The exported file, read back.
        pictures: At least one.
        dataset: Labels of pictures on which AP is compared.

    Raises:
        ImageError: A picture cannot be read.
        DataError: The data set has no objects or other classes than the detector.
    """
    differences = [_compare_picture(checkpoint, file, picture) for picture in pictures]
    largest = _Differences(*np.max(differences, axis=0).tolist())
    report = GateReport(
        len(pictures),
        largest.output,
        largest.box,
        largest.score,
        max_object_box_difference_px=largest.object_box,
        max_object_score_difference=largest.object_score,
        num_objects=sum(one.num_objects for one in differences),
        num_unmatched=sum(one.num_unmatched for one in differences),
    )
    if dataset is None:
        return report
    ours, theirs = (evaluate(Predictor(backend).predict_record, dataset) for backend in (checkpoint, file))
    return dataclasses.replace(
        report, checkpoint_ap=ours.ap, file_ap=theirs.ap, checkpoint_ap50=ours.ap50, file_ap50=theirs.ap50
    )


class _Differences(NamedTuple):
    """Of one picture, in the order of the report."""

    output: float
    box: float
    score: float
    object_box: float
    object_score: float
    num_objects: int
    num_unmatched: int


def _compare_picture(checkpoint: Backend, file: Backend, path: Path) -> _Differences:
    metadata = checkpoint.metadata
    picture = read_image(path, at_least=metadata.input_size)
    letterbox = metadata.letterbox(picture.size)
    images = letterbox.apply(picture.pixels, metadata.padding_colour)[None]
    levels = checkpoint.run(images)
    ours = decode_picture(levels, 0, metadata, PARTNER_SCORE, IOU_THRESHOLD)
    if file.metadata.outputs == "logits":
        file_levels = file.run(images)
        differences = _compare_logits(levels, file_levels, metadata)
        theirs = decode_picture(file_levels, 0, metadata, PARTNER_SCORE, IOU_THRESHOLD)
    else:
        # Without NMS, which may keep either of two boxes that overlap and score alike.
        [cells] = find_boxes(file, images, [(SCORE_THRESHOLD / 2, 1.0)])
        differences = _compare_cells(decode_picture(levels, 0, metadata, SCORE_THRESHOLD / 2, 1.0), cells)
        [theirs] = find_boxes(file, images, [(PARTNER_SCORE, IOU_THRESHOLD)])
    pairs, num_unmatched = _pair_objects(ours, theirs)
    boxes, scores = (
        np.abs(getattr(ours, part)[pairs[:, 0]] - getattr(theirs, part)[pairs[:, 1]]) for part in ("boxes", "scores")
    )
    return _Differences(
        *differences, float(boxes.max(initial=0)), float(scores.max(initial=0)), len(pairs), num_unmatched
    )


def _compare_logits(
    ours: Sequence[LevelLogits], theirs: Sequence[LevelLogits], metadata: ModelMetadata
) -> tuple[float, float, float]:
    """Of outputs, boxes and scores."""
    outputs = [np.abs(a - b).max() for level in zip(ours, theirs, strict=True) for a, b in zip(*level, strict=True)]
    scores = [np.abs(_scores(a) - _scores(b)).max() for a, b in zip(ours, theirs, strict=True)]
    # Under the checkpoint's scores both choose the same cells in the same order.
    same_cells = [b._replace(objectness=a.objectness, classes=a.classes) for a, b in zip(ours, theirs, strict=True)]
    boxes = np.abs(_best_boxes(ours, metadata) - _best_boxes(same_cells, metadata))
    return float(np.max(outputs)), float(boxes.max(initial=0)), float(np.max(scores))


def _scores(level: LevelLogits) -> Floats:
    """``(B, A, K, H, W)`` objectness x class probability."""
    batch, num_anchors, height, width = level.objectness.shape
    classes = level.classes.reshape(batch, num_anchors, -1, height, width)
    return sigmoid(level.objectness)[:, :, None] * sigmoid(classes)


def _best_boxes(levels: Sequence[LevelLogits], metadata: ModelMetadata) -> Floats:
    """``(N, 4)`` xyxy in input pixels, overlapping ones too."""
    return decode_picture(levels, 0, metadata, SCORE_THRESHOLD, math.inf, BOXES_PER_PICTURE).boxes


def _compare_cells(ours: Decoded, theirs: Decoded) -> tuple[float, float, float]:
    """As ``_compare_logits``: the best boxes of each with the nearest of the other; infinite where it has none."""
    box = score = 0.0
    for these, others in ((ours, theirs), (theirs, ours)):
        best = np.flatnonzero(these.scores > SCORE_THRESHOLD)[:BOXES_PER_PICTURE]
        for index in best:
            distances = np.abs(others.boxes - these.boxes[index]).max(axis=1)
            distances = np.where(others.class_ids == these.class_ids[index], distances, np.inf)
            nearest = int(distances.argmin()) if len(distances) else None
            if nearest is None or not distances[nearest] < np.inf:
                return math.inf, math.inf, math.inf
            box = max(box, float(distances[nearest]))
            score = max(score, float(abs(others.scores[nearest] - these.scores[index])))
    return max(box, score), box, score


def _pair_objects(ours: Decoded, theirs: Decoded) -> tuple[NDArray[np.int64], int]:
    """Objects as people see them, each with the one of the other that overlaps it most; best scores first.

    Returns:
        ``(N, 2)`` indices of the pairs of which one has a score above ``OBJECT_SCORE``; how many such objects have no
        partner.
    """
    overlaps = box_iou(ours.boxes, theirs.boxes) * (ours.class_ids[:, None] == theirs.class_ids)
    pairs = []
    num_unmatched = 0
    for index in range(len(ours.scores)):
        partner = int(overlaps[index].argmax()) if overlaps.size else -1
        if partner >= 0 and overlaps[index, partner] >= PARTNER_IOU:
            overlaps[:, partner] = -1  # taken
            pairs.append((index, partner))
        elif ours.scores[index] > OBJECT_SCORE:
            num_unmatched += 1
    paired = np.array(pairs, np.int64).reshape(-1, 2)
    left = np.delete(theirs.scores, paired[:, 1])
    certain = np.maximum(ours.scores[paired[:, 0]], theirs.scores[paired[:, 1]]) > OBJECT_SCORE
    return paired[certain], num_unmatched + int((left > OBJECT_SCORE).sum())
