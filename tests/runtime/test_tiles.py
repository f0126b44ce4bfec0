from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketdet.core.detections import Detections
from pocketdet.runtime.tiles import OVERLAP, Tile, merge_tiles, place_tiles

NAMES = ("cat", "dog")
LEFT, RIGHT, WHOLE = Tile(0, 0, 100, 100), Tile(75, 0, 175, 100), Tile(0, 0, 175, 100)


def found(*rows):
    """Detections from (left, top, right, bottom, score, class)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), NAMES, (100, 100))


def merge(left, right, whole=found()):  # noqa: B008 - it is not changed
    merged = merge_tiles([(LEFT, left), (RIGHT, right), (WHOLE, whole)], WHOLE, 0.5, "iou")
    assert merged.image_size == (100, 175)
    return [
        (*box.tolist(), round(float(score), 2), int(class_id))
        for box, score, class_id in zip(merged.boxes, merged.scores, merged.class_ids, strict=True)
    ]


def test_places_worked_by_hand():
    # Steps of at most 75: 0 to 150 takes two, so three tiles 75 apart; 90 rows fit into one.
    assert place_tiles((90, 250), 100) == [Tile(0, 0, 100, 90), Tile(75, 0, 175, 90), Tile(150, 0, 250, 90)]
    assert place_tiles((100, 175), 100) == [LEFT, RIGHT]
    assert place_tiles((100, 100), 100) == [LEFT]


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(32, 700))
def test_every_object_up_to_the_overlap_lies_whole_in_a_tile_and_every_tile_in_the_picture(height, width, side):
    tiles = place_tiles((height, width), side)
    assert all(min(t) >= 0 and t.right <= width and t.bottom <= height for t in tiles)
    assert {t.size for t in tiles} == {(min(side, height), min(side, width))}
    overlap = int(side * OVERLAP)
    for length, ends in ((width, {(t.left, t.right) for t in tiles}), (height, {(t.top, t.bottom) for t in tiles})):
        ordered = sorted(ends)
        assert (ordered[0][0], ordered[-1][1]) == (0, length)
        assert all(this[1] - after[0] >= overlap for this, after in pairwise(ordered))


def test_boxes_move_to_their_place_in_the_picture_best_first():
    assert merge(found((10, 10, 30, 30, 0.5, 0)), found((60, 20, 90, 60, 0.9, 1))) == [
        (135, 20, 165, 60, 0.9, 1),
        (10, 10, 30, 30, 0.5, 0),
    ]


def test_an_object_that_two_tiles_show_whole_is_one():
    assert merge(found((80, 10, 98, 30, 0.6, 0)), found((5, 10, 23, 30, 0.8, 0))) == [(80, 10, 98, 30, 0.8, 0)]


def test_an_object_cut_by_one_tile_is_the_one_that_the_other_shows_whole_even_with_a_lower_score():
    # 85 to 125 in the picture; the left tile ends at 100 and shows 15 of its 40 columns: IoU 0.375.
    assert merge(found((85, 10, 100, 30, 0.9, 0)), found((10, 10, 50, 30, 0.6, 0))) == [(85, 10, 125, 30, 0.6, 0)]


def test_a_cut_box_of_another_class_or_beside_stays():
    kept = merge(found((85, 10, 100, 30, 0.9, 1), (85, 60, 100, 80, 0.7, 0)), found((10, 10, 50, 30, 0.6, 0)))
    assert kept == [(85, 10, 100, 30, 0.9, 1), (85, 60, 100, 80, 0.7, 0), (85, 10, 125, 30, 0.6, 0)]


def test_an_object_larger_than_a_tile_is_the_one_that_the_whole_picture_shows():
    kept = merge(found((20, 0, 100, 90, 0.9, 0)), found((0, 0, 85, 90, 0.8, 0)), found((20, 0, 160, 90, 0.5, 0)))
    assert kept == [(20, 0, 160, 90, 0.5, 0)]


def test_a_box_at_the_border_of_the_picture_is_not_cut():
    # Both end at a border of the picture alone; as cut ones the inner box would go.
    inner, outer = (0, 0, 40, 10, 0.9, 0), (0, 0, 60, 60, 0.8, 0)
    assert merge(found(inner, outer), found()) == [inner, outer]


@pytest.mark.parametrize("number", [0, 2000])
def test_any_number_of_objects_is_kept(number):
    rows = [(x, y, x + 1, y + 1, 0.5, 0) for x in range(2, 92, 2) for y in range(2, 92, 2)][:number]
    assert len(merge(found(*rows), found())) == number
