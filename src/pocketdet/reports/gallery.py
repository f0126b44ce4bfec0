"""Pictures of what went wrong: the surroundings of a box, with the boxes drawn in."""

import base64
import io
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketdet.core.decode import box_iou
from pocketdet.core.detections import Detections
from pocketdet.core.drawing import draw
from pocketdet.core.images import read_image
from pocketdet.datasets.records import Dataset
from pocketdet.errors import ImageError
from pocketdet.reports.matching import IOU_THRESHOLD, Confusion, Pair

PICTURES = 12  # of each kind
SIDE = 240  # the long side of a picture in the report, in pixels
SURROUNDINGS = 1.6  # side of the part that is shown, in long sides of the box
LEAST_PART = 96  # image pixels
QUALITY = 80
NEAR = 0.1  # IoU from which on a target is named beside a false positive


class Example(NamedTuple):
    """A picture and what to say of it."""

    jpeg: bytes
    caption: str


class Gallery(NamedTuple):
    """The worst of each kind."""

    false_positives: list[Example]
    misses: list[Example]
    confusions: list[Example]


def show_mistakes(confusion: Confusion, found: Sequence[Detections], dataset: Dataset) -> Gallery:
    """Draw the worst mistakes, at most one of a kind from each picture.

    False positives and confusions with the highest scores are the worst, and misses of the largest objects, relative
    to their picture. Pictures that can no longer be read are left out.

    Args:
        confusion: The mistakes.
        found: One for each record.
        dataset: The pictures.
    """

    def score(pair: Pair) -> float:
        assert pair.detection is not None
        return float(found[pair.picture].scores[pair.detection])

    def relative_area(pair: Pair) -> float:
        left, top, right, bottom = dataset.records[pair.picture].boxes[pair.target]
        height, width = found[pair.picture].image_size
        return float((right - left) * (bottom - top) / (height * width))

    def worst(pairs: Iterable[Pair], badness: Callable[[Pair], float]) -> list[Example]:
        first = {pair.picture: pair for pair in sorted(pairs, key=badness)}  # the last one of a picture stays
        worst_first = sorted(first.values(), key=badness, reverse=True)
        shown = (_show(pair, found[pair.picture], dataset) for pair in worst_first)
        return list(itertools.islice((example for example in shown if example is not None), PICTURES))

    return Gallery(
        worst(confusion.false_positives, score),
        worst(confusion.misses, relative_area),
        worst(confusion.confusions, score),
    )


def to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """``(H, W, 3)`` RGB as a small JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def to_data_url(jpeg: bytes) -> str:
    """For an ``<img>`` without a file."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _show(pair: Pair, detections: Detections, dataset: Dataset) -> Example | None:
    """Draw one mistake; ``None`` where its picture cannot be read."""
    record = dataset.records[pair.picture]
    boxes, class_ids, labels = [], [], []
    target = pair.target if pair.target is not None else _nearest_target(pair, detections, record.boxes)
    if target is not None:
        boxes.append(record.boxes[target])
        class_ids.append(record.class_ids[target])
        labels.append(f"is: {dataset.class_names[record.class_ids[target]]}")
    if pair.detection is not None:
        boxes.append(detections.boxes[pair.detection])
        class_ids.append(detections.class_ids[pair.detection])
        labels.append(f"{detections.class_names[pair.detection]} {detections.scores[pair.detection]:.0%}")
    try:
        pixels = read_image(record.path).pixels
    except ImageError:
        return None
    marked = Detections(
        np.array(boxes, np.float32),
        np.ones(len(boxes), np.float32),
        np.array(class_ids, np.int64),
        dataset.class_names,
        detections.image_size,
    )
    jpeg = to_jpeg(_draw_part(pixels, marked, labels))
    return Example(jpeg, f"{record.path.name}: {_explain(pair, target, detections, dataset)}")


def _nearest_target(pair: Pair, detections: Detections, targets: NDArray[np.float32]) -> int | None:
    """The target that a false positive overlaps most, if it is near."""
    assert pair.detection is not None
    overlap = box_iou(detections.boxes[[pair.detection]], targets)[0]
    return int(overlap.argmax()) if overlap.size and overlap.max() >= NEAR else None


def _explain(pair: Pair, target: int | None, detections: Detections, dataset: Dataset) -> str:
    """One sentence on a mistake."""
    record = dataset.records[pair.picture]
    if target is None:
        return "nothing labelled there"
    name = dataset.class_names[record.class_ids[target]]
    if pair.detection is None:
        near = box_iou(detections.boxes, record.boxes[[target]])[:, 0] >= IOU_THRESHOLD
        scores = detections.scores[near & (detections.class_ids == record.class_ids[target])]
        return f"its best box as {name} has a score of {scores.max():.1%}" if scores.size else f"no box as {name} fits"
    if pair.target is not None:
        return f"{detections.class_names[pair.detection]} instead of {name}"
    overlap = float(box_iou(detections.boxes[[pair.detection]], record.boxes[[target]])[0, 0])
    if overlap >= IOU_THRESHOLD:
        return f"lies on a {name} that has a box already"
    return f"overlaps a {name} with an IoU of {math.floor(100 * overlap) / 100} only"


def _draw_part(pixels: NDArray[np.uint8], marked: Detections, labels: Sequence[str]) -> NDArray[np.uint8]:
    """The part of a picture around the boxes, at the report's size, with the boxes drawn in."""
    height, width = pixels.shape[:2]
    low, high = marked.boxes[:, :2].min(axis=0), marked.boxes[:, 2:].max(axis=0)
    side = max(LEAST_PART, SURROUNDINGS * float((high - low).max()))
    left, top = np.maximum((low + high - side) / 2, 0).astype(int)
    right, bottom = min(width, int(left + side)), min(height, int(top + side))
    scale = SIDE / max(right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    part = Image.fromarray(pixels[top:bottom, left:right]).resize(size, Image.Resampling.BICUBIC)
    boxes = (marked.boxes - np.array([left, top, left, top], np.float32)) * np.float32(scale)
    moved = Detections(boxes, marked.scores, marked.class_ids, marked.names, (size[1], size[0]))
    return draw(moved, np.asarray(part), labels)
