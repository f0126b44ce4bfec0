"""Which detection stands for which target at one score threshold, and what went wrong."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import box_iou
from pocketdet.core.detections import Detections
from pocketdet.datasets.records import Dataset, Record

IOU_THRESHOLD = 0.5


class Pair(NamedTuple):
    """A detection and its target, as numbers within their picture; ``None``: a false positive, or a miss."""

    picture: int
    detection: int | None
    target: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
    """How often which class was taken for which.

    Args:
        counts: ``(K + 1, K + 1)``: the row is the target's class, the column the detection's; the last of both is
            the background: the last column counts misses, the last row false positives.
        false_positives: Pairs without target.
        misses: Pairs without detection.
        confusions: Pairs of two classes.
        score_threshold: Detections with a score above it took part.
    """

    counts: NDArray[np.int64]
    false_positives: tuple[Pair, ...]
    misses: tuple[Pair, ...]
    confusions: tuple[Pair, ...]
    score_threshold: float


def confuse(found: Sequence[Detections], dataset: Dataset, score_threshold: float) -> Confusion:
    """Match all pictures and count.

    Args:
        found: One for each record, with the data set's class ids.
        dataset: The targets.
        score_threshold: Detections with a score above it take part.
    """
    background = len(dataset.class_names)
    counts = np.zeros((background + 1, background + 1), np.int64)
    false_positives, misses, confusions = [], [], []
    for number, (record, detections) in enumerate(zip(dataset.records, found, strict=True)):
        for detection, target in match(record, detections, score_threshold):
            pair = Pair(number, detection, target)
            row = background if target is None else int(record.class_ids[target])
            column = background if detection is None else int(detections.class_ids[detection])
            counts[row, column] += 1
            if target is None:
                false_positives.append(pair)
            elif detection is None:
                misses.append(pair)
            elif row != column:
                confusions.append(pair)
    return Confusion(counts, tuple(false_positives), tuple(misses), tuple(confusions), score_threshold)


def match(record: Record, detections: Detections, score_threshold: float) -> list[tuple[int | None, int | None]]:
    """Pair the detections of a picture with its targets; what is left of either has ``None`` beside it.

    The best score chooses first, among the free targets with an IoU of 0.50 or more the one that it overlaps most:
    first within its class, then, of what is left, in any class. Difficult targets are no misses, and a detection
    that finds nothing but one of them is left out.
    """
    shown = np.flatnonzero(detections.scores > score_threshold)
    overlap = box_iou(detections.boxes[shown], record.boxes)
    overlap[overlap < IOU_THRESHOLD] = 0
    hits_difficult = overlap[:, record.difficult].sum(axis=1) > 0
    overlap[:, record.difficult] = 0
    same_class = detections.class_ids[shown][:, None] == record.class_ids
    pairs = _choose(np.where(same_class, overlap, 0))
    overlap[list(pairs)] = 0
    overlap[:, list(pairs.values())] = 0
    overlap[hits_difficult] = 0
    pairs |= _choose(overlap)
    result: list[tuple[int | None, int | None]] = [(int(shown[d]), t) for d, t in sorted(pairs.items())]
    result += [(int(shown[d]), None) for d in range(len(shown)) if d not in pairs and not hits_difficult[d]]
    missed = set(np.flatnonzero(~record.difficult).tolist()) - set(pairs.values())
    return result + [(None, target) for target in sorted(missed)]


def _choose(overlap: NDArray[np.float32]) -> dict[int, int]:
    """Each detection in turn takes the free target with the largest overlap above 0."""
    free = overlap.copy()
    chosen: dict[int, int] = {}
    if not free.size:
        return chosen
    for detection in range(len(free)):
        target = int(free[detection].argmax())
        if free[detection, target] > 0:
            chosen[detection] = target
            free[:, target] = 0
    return chosen
