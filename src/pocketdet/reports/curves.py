"""What each score threshold gives: precision, recall and F1, by VOC's rules at IoU 0.50."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pocketdet.datasets.records import Dataset
from pocketdet.evaluation import Curve, Evaluation, voc_curve

Floats = NDArray[np.float64]

THRESHOLDS: Floats = np.arange(200) / 200  # 0 to 0.995; a detection is shown if its score is above
RECALLS: Floats = np.arange(201) / 200


@dataclasses.dataclass(frozen=True, eq=False)
class Tradeoff:
    """One class, or the mean over the classes that have targets.

    Args:
        falling_precision: ``(201,)`` best precision at each of ``RECALLS`` or more; the area below is VOC's AP.
        precision: ``(200,)`` at each of ``THRESHOLDS``; 0 where nothing is shown.
        recall: ``(200,)`` at each of ``THRESHOLDS``.
        f1: ``(200,)`` harmonic mean of the two; for the mean over classes, the mean of theirs.
    """

    falling_precision: Floats
    precision: Floats
    recall: Floats
    f1: Floats

    @property
    def best(self) -> int | None:
        """Place in ``THRESHOLDS`` of the highest F1, the middle one of equals; ``None`` if nothing is ever right."""
        if not self.f1.max() > 0:
            return None
        places = np.flatnonzero(self.f1 >= self.f1.max() - 1e-12)
        return int(places[len(places) // 2])


@dataclasses.dataclass(frozen=True)
class Tradeoffs:
    """Of every class in the order of the ids, ``None`` without targets, and their mean."""

    per_class: tuple[Tradeoff | None, ...]
    mean: Tradeoff


def compute_tradeoffs(evaluation: Evaluation, dataset: Dataset) -> Tradeoffs:
    """Precision, recall and F1 over the score threshold.

    Args:
        evaluation: Of ``dataset``.
        dataset: With at least one target, which ``evaluate`` makes sure of.
    """
    curves = [voc_curve(evaluation.detections, dataset, class_id) for class_id in range(len(dataset.class_names))]
    per_class = tuple(None if curve is None else tradeoff(curve) for curve in curves)
    return Tradeoffs(per_class, _mean([part for part in per_class if part is not None]))


def tradeoff(curve: Curve) -> Tradeoff:
    """One class at every threshold and every recall."""
    shown = np.searchsorted(-curve.scores.astype(np.float64), -THRESHOLDS)  # detections with a score above
    precision, recall = (np.concatenate(([0.0], values))[shown] for values in (curve.precision, curve.recall))
    total = precision + recall
    f1 = 2 * precision * recall / np.where(total > 0, total, 1)
    best_from_here_on = np.maximum.accumulate(curve.precision[::-1])[::-1]
    place = np.searchsorted(curve.recall, RECALLS - 1e-12)
    return Tradeoff(np.append(best_from_here_on, 0.0)[place], precision, recall, f1)


def _mean(parts: Sequence[Tradeoff]) -> Tradeoff:
    names = [field.name for field in dataclasses.fields(Tradeoff)]
    return Tradeoff(*(np.mean([getattr(part, name) for part in parts], axis=0) for name in names))
