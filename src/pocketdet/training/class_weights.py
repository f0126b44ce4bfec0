"""How much an object of each class counts in the loss."""

from collections.abc import Iterable

import numpy as np

from pocketdet.datasets.records import Record

LARGEST_RATIO = 10.0  # of two weights; a class with a handful of objects would otherwise outweigh all others


def weigh_classes(records: Iterable[Record], num_classes: int) -> tuple[float, ...]:
    """Weights inversely proportional to the frequency of the classes; their mean over all objects is 1.

    No weight is more than ``LARGEST_RATIO`` times that of the most frequent class.

    Args:
        records: The training pictures, with at least one object.
        num_classes: How many class ids there are.

    Returns:
        One weight a class id.
    """
    counts = np.bincount(np.concatenate([record.class_ids for record in records]), minlength=num_classes)
    weights = 1 / np.maximum(counts, counts.max() / LARGEST_RATIO)
    return tuple((weights * counts.sum() / (weights @ counts)).tolist())
