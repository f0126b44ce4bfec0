import numpy as np

from pocketdet.datasets.records import Dataset
from pocketdet.reports.matching import confuse, match

A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]
NAMES = ("cat", "dog", "emu")


def test_right_wrong_and_missing_ones_worked_by_hand(record, detections):
    # A cat found, a dog taken for a cat, an emu missed, and a dog where nothing is.
    found = detections([A, B, [70, 70, 80, 80]], [0.9, 0.8, 0.7], [0, 0, 1])
    confusion = confuse([found], Dataset((record([A, B, C], [0, 1, 2]),), NAMES), 0.5)
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[1, 0] = expected[2, 3] = expected[3, 1] = 1
    np.testing.assert_array_equal(confusion.counts, expected)
    assert confusion.false_positives == ((0, 2, None),)
    assert confusion.misses == ((0, None, 2),)
    assert confusion.confusions == ((0, 1, 1),)


def test_every_target_that_counts_is_in_its_row_once(record, detections):
    rng = np.random.default_rng(0)
    records, found = [], []
    for _ in range(30):
        low = rng.uniform(0, 60, (5, 2))
        boxes = np.hstack((low, low + rng.uniform(10, 30, (5, 2))))
        records.append(record(boxes, rng.integers(0, 3, 5), list(rng.random(5) < 0.3)))
        moved = np.repeat(boxes, 3, axis=0) + rng.normal(0, 3, (15, 4))
        found.append(detections(moved, np.sort(rng.random(15))[::-1], rng.integers(0, 3, 15)))
    confusion = confuse(found, Dataset(tuple(records), NAMES), 0.4)
    for class_id in range(3):
        counted = sum(int(((r.class_ids == class_id) & ~r.difficult).sum()) for r in records)
        assert confusion.counts[class_id].sum() == counted
        shown = sum(int(((d.class_ids == class_id) & (d.scores > 0.4)).sum()) for d in found)
        assert confusion.counts[:, class_id].sum() <= shown


def test_a_target_goes_to_its_own_class_although_another_class_has_a_better_score(record, detections):
    assert match(record([A], [1]), detections([A, A], [0.9, 0.6], [0, 1]), 0.5) == [(1, 0), (0, None)]


def test_a_second_box_on_a_target_is_false_and_the_better_score_keeps_it(record, detections):
    assert match(record([A], [0]), detections([A, A], [0.9, 0.8], [0, 0]), 0.5) == [(0, 0), (1, None)]


def test_the_larger_overlap_is_chosen_and_less_than_one_half_is_none(record, detections):
    targets = record([[0, 0, 10, 10], [3, 0, 13, 10]], [0, 0])
    assert match(targets, detections([[2, 0, 12, 10]], [0.9], [0]), 0.5) == [(0, 1), (None, 0)]
    assert match(record([A], [0]), detections([[0, 0, 10, 4.9]], [0.9], [0]), 0.5) == [(0, None), (None, 0)]


def test_difficult_targets_are_no_misses_and_their_detections_not_false(record, detections):
    assert match(record([A, B], [0, 0], [True, True]), detections([A], [0.9], [0]), 0.5) == []
    # An easy target under the same detection comes first.
    assert match(record([A, A], [0, 0], [True, False]), detections([A], [0.9], [0]), 0.5) == [(0, 1)]


def test_the_threshold_is_a_bound_that_scores_must_exceed(record, detections):
    assert match(record([A], [0]), detections([A], [0.5], [0]), 0.5) == [(None, 0)]
    assert match(record([A], [0]), detections([A], [0.5], [0]), 0.49) == [(0, 0)]


def test_pictures_without_targets_or_without_detections_can_be_matched(record, detections):
    assert match(record([], []), detections([], [], []), 0.5) == []
    assert match(record([], []), detections([A], [0.9], [0]), 0.5) == [(0, None)]
    assert match(record([A], [0]), detections([], [], []), 0.5) == [(None, 0)]
