import numpy as np
import pytest

from pocketdet.evaluation import voc_curve
from pocketdet.reports.curves import RECALLS, THRESHOLDS, compute_tradeoffs

SQUARES = [[20 * n, 0, 20 * n + 10, 10] for n in range(5)]


def at(threshold):
    return int(np.flatnonzero(np.isclose(THRESHOLDS, threshold))[0])


@pytest.fixture
def by_hand(record, detections, measure):
    """Cats: true at 0.9, false at 0.8, true at 0.7, of four targets; dogs: the one target found at 0.6."""
    records = [record(SQUARES, [0, 0, 0, 0, 1])]
    boxes = [SQUARES[0], [0, 80, 10, 90], SQUARES[1], SQUARES[4]]
    return compute_tradeoffs(*measure(records, [detections(boxes, [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 1])]))


def test_precision_recall_and_f1_worked_by_hand(by_hand):
    cat = by_hand.per_class[0]
    for threshold, precision, recall in ((0.95, 0, 0), (0.85, 1, 1 / 4), (0.75, 1 / 2, 1 / 4), (0.5, 2 / 3, 2 / 4)):
        f1 = 2 * precision * recall / (precision + recall) if precision else 0
        found = (cat.precision[at(threshold)], cat.recall[at(threshold)], cat.f1[at(threshold)])
        assert found == pytest.approx((precision, recall, f1))


def test_the_best_threshold_is_the_middle_of_those_with_the_highest_f1(by_hand):
    cat, dog, emu = by_hand.per_class
    assert cat.f1[cat.best] == pytest.approx(4 / 7)
    assert THRESHOLDS[cat.best] == pytest.approx(0.35, abs=0.006)  # from 0 to below 0.7
    assert THRESHOLDS[dog.best] == pytest.approx(0.30, abs=0.006)  # from 0 to below 0.6
    assert emu is None


def test_the_mean_is_over_the_classes_that_have_targets(by_hand):
    assert by_hand.mean.f1[at(0.5)] == pytest.approx((4 / 7 + 1) / 2)
    assert THRESHOLDS[by_hand.mean.best] < 0.6


def test_a_detection_with_exactly_the_threshold_s_score_is_not_shown(record, detections, measure):
    part = compute_tradeoffs(*measure([record(SQUARES[:1], [0])], [detections(SQUARES[:1], [0.5], [0])])).mean
    assert (part.recall[at(0.495)], part.recall[at(0.5)]) == (1, 0)


def test_a_detector_that_finds_nothing_has_no_best_threshold(record, detections, measure):
    part = compute_tradeoffs(*measure([record(SQUARES[:1], [0])], [detections([], [], [])])).mean
    assert part.best is None
    assert part.falling_precision.max() == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_area_under_the_curve_is_voc_s_ap(seed, record, detections, measure):
    rng = np.random.default_rng(seed)
    records, found = [], []
    for _ in range(20):
        low = rng.uniform(0, 70, (4, 2))
        boxes = np.hstack((low, low + rng.uniform(10, 30, (4, 2))))
        class_ids = rng.integers(0, 2, 4)
        records.append(record(boxes, class_ids, list(rng.random(4) < 0.2)))
        moved = np.repeat(boxes, 2, axis=0) + rng.normal(0, 2.5, (8, 4))
        found.append(detections(moved, np.sort(rng.random(8))[::-1], np.repeat(class_ids, 2)))
    result, dataset = measure(records, found)
    tradeoffs = compute_tradeoffs(result, dataset)
    for class_id in (0, 1):
        part = tradeoffs.per_class[class_id]
        curve = voc_curve(found, dataset, class_id)
        # Summed over the recalls that a target more makes, in the middle of each step.
        middles = (np.arange(result.per_class[class_id].targets) + 0.5) / result.per_class[class_id].targets
        exact = [curve.precision[curve.recall >= recall].max(initial=0) for recall in middles]
        assert result.per_class[class_id].voc_ap50 == pytest.approx(np.mean(exact))
        area = float(np.trapezoid(part.falling_precision, RECALLS))
        assert area == pytest.approx(result.per_class[class_id].voc_ap50, abs=0.005)  # half a step of RECALLS
