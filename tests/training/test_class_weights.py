from pathlib import Path

import numpy as np
import pytest

from pocketdet.datasets.records import Record
from pocketdet.training.class_weights import LARGEST_RATIO, weigh_classes


def records(*counts: int) -> list[Record]:
    """One picture a class, with so many objects of it."""
    return [
        Record(Path("a.jpg"), np.zeros((n, 4), np.float32), np.full(n, class_id, np.int64), np.zeros(n, bool))
        for class_id, n in enumerate(counts)
    ]


def test_weights_are_inverse_to_the_frequency_with_a_mean_over_objects_of_one() -> None:
    # 4 w0 + 8 w1 + 16 w2 = 28 with 4 w0 = 8 w1 = 16 w2
    assert weigh_classes(records(4, 8, 16), 3) == pytest.approx((28 / 12, 28 / 24, 28 / 48))


def test_no_weight_is_more_than_ten_times_another_and_the_mean_stays_one() -> None:
    weights = weigh_classes(records(1, 5000, 0, 20), 4)
    assert max(weights) / min(weights) == pytest.approx(LARGEST_RATIO)
    assert (weights[0] + 5000 * weights[1] + 20 * weights[3]) / 5021 == pytest.approx(1)


def test_classes_of_equal_frequency_weigh_one() -> None:
    assert weigh_classes(records(7, 7), 2) == pytest.approx((1, 1))
