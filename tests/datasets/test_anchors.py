import numpy as np
import pytest

from pocketdet.core.metadata import YOLOV4_ANCHORS
from pocketdet.datasets.anchors import fit_anchors, measure_fit, shape_iou

NINE = np.array([(8, 8), (12, 30), (30, 12), (50, 50), (40, 120), (120, 40), (150, 150), (90, 300), (300, 90)])


def clusters(spread: float, each: int = 40) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (NINE.repeat(each, axis=0) * rng.uniform(1 - spread, 1 + spread, (9 * each, 2))).astype(np.float32)


def test_nine_clusters_are_found_and_the_smallest_go_to_p3() -> None:
    own = fit_anchors(clusters(0.05))
    assert own is not None
    found = np.array(own.anchors).reshape(9, 2)
    assert (np.diff(found.prod(axis=1)) >= 0).all()
    assert shape_iou(NINE.astype(np.float32), found.astype(np.float32)).max(axis=1).min() > 0.95
    assert own.fit.mean_iou > 0.93


def test_no_restart_of_plain_loops_finds_a_much_better_fit() -> None:
    """K-means box by box and centre by centre, from random boxes."""
    rng = np.random.default_rng(1)
    sizes = rng.lognormal(3.5, 0.8, (150, 2)).astype(np.float32)

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        shared = min(a[0], b[0]) * min(a[1], b[1])
        return float(shared / (a[0] * a[1] + b[0] * b[1] - shared))

    best = 0.0
    for _ in range(3):
        centres = sizes[rng.choice(len(sizes), 9, replace=False)]
        for _ in range(8):
            nearest = [max(range(9), key=lambda k: iou(box, centres[k])) for box in sizes]
            best = max(best, float(np.mean([iou(box, centres[k]) for box, k in zip(sizes, nearest, strict=True)])))
            centres = np.array(
                [np.mean([b for b, n in zip(sizes, nearest, strict=True) if n == k], 0) for k in range(9)]
            )
    own = fit_anchors(sizes)
    assert own is not None
    assert own.fit.mean_iou > best - 0.005


def test_the_same_seed_gives_the_same_anchors_and_many_boxes_are_no_burden() -> None:
    sizes = np.random.default_rng(2).uniform(5, 300, (15_000, 2)).astype(np.float32)
    assert fit_anchors(sizes, 3) == fit_anchors(sizes, 3)


def test_fewer_than_nine_different_sizes_have_no_anchors() -> None:
    assert fit_anchors(NINE[:8].repeat(5, axis=0).astype(np.float32)) is None
    assert fit_anchors(np.zeros((0, 2), np.float32)) is None


def test_recall_counts_the_boxes_above_each_iou() -> None:
    # (12, 16) is an anchor; (24, 16) has 192 / 384 = 0.5 with it, not above; (2, 2) has 4 / 192.
    fit = measure_fit(np.array([(12, 16), (24, 16), (2, 2)], np.float32), YOLOV4_ANCHORS)
    assert fit is not None
    assert fit.recall == pytest.approx((2 / 3, 1 / 3))
