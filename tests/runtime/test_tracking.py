import numpy as np
import pytest

from pocketdet.core.detections import Detections
from pocketdet.errors import SettingsError
from pocketdet.runtime.counting import LineCounter, ZoneCounter, parse_points
from pocketdet.runtime.tracking import Tracker, Tracks, Trails, mot_lines, old_identities

SIZE = (480, 640)


def detections(boxes, scores=None, class_ids=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    scores = np.ones(len(boxes), np.float32) if scores is None else np.array(scores, np.float32)
    class_ids = np.zeros(len(boxes), np.int64) if class_ids is None else np.array(class_ids, np.int64)
    return Detections(boxes, scores, class_ids, ("person", "dog"), SIZE)


def tracks(*boxes_by_id):
    """From (id, centre x, centre y), boxes of 20 pixels."""
    ids = np.array([item[0] for item in boxes_by_id], np.int64)
    return Tracks(detections([[x - 10, y - 10, x + 10, y + 10] for _, x, y in boxes_by_id]), ids)


def walk(seed, objects=6, frames=120, jitter=1.5, missed=0.03):
    """Boxes that walk through each other and bounce off the edges; detections shake, some are missing.

    Returns:
        Of each frame, the true ``(objects, 4)`` boxes and the ``(N, 4)`` detected ones.
    """
    random = np.random.default_rng(seed)
    limits = np.array(SIZE[::-1], float)
    sizes = random.uniform(30, 70, (objects, 2))
    corners = random.uniform(0, 1, (objects, 2)) * (limits - sizes)
    speeds = random.normal(0, 3, (objects, 2))
    for _ in range(frames):
        corners = corners + speeds
        outside = (corners < 0) | (corners > limits - sizes)
        speeds = np.where(outside, -speeds, speeds)
        corners = np.clip(corners, 0, limits - sizes)
        truth = np.concatenate([corners, corners + sizes], axis=1)
        seen = random.random(objects) > missed
        yield truth, truth[seen] + random.normal(0, jitter, (seen.sum(), 4))


def distances(truth, found):
    """1 - IoU; not a number where boxes overlap less than half: those may not be matched."""
    low = np.maximum(truth[:, None, :2], found[None, :, :2])
    high = np.minimum(truth[:, None, 2:], found[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (truth, found)]
    values = 1 - shared / (areas[0][:, None] + areas[1][None] - shared)
    return np.where(values > 0.5, np.nan, values)


def identity_f1(sequence, tracker):
    """IDF1 by motmetrics."""
    metrics = pytest.importorskip("motmetrics")
    book = metrics.MOTAccumulator(auto_id=True)
    for truth, boxes in sequence:
        found = tracker.update(detections(boxes))
        book.update(list(range(len(truth))), found.ids.tolist(), distances(truth, found.detections.boxes))
    return metrics.metrics.create().compute(book, metrics=["idf1"], name="walk")["idf1"].iloc[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_identities_of_a_known_sequence_are_kept(seed):
    pytest.importorskip("norfair")
    assert identity_f1(walk(seed), Tracker(rate=30)) >= 0.95


def test_the_measure_can_fail():
    """Identities that change every tenth frame are not kept."""

    class Forgetful:
        frame = 0

        def update(self, found):
            self.frame += 1
            return Tracks(found, np.arange(len(found)) + 1000 * (self.frame // 10))

    assert identity_f1(walk(0), Forgetful()) < 0.3


@pytest.fixture
def tracker():
    pytest.importorskip("norfair")
    return Tracker(rate=10)


def test_an_identity_comes_with_the_second_sight_and_the_box_is_the_detected_one(tracker):
    assert len(tracker.update(detections([[100, 100, 140, 180]]))) == 0
    found = tracker.update(detections([[300, 300, 340, 380], [104, 100, 144, 180]], [0.9, 0.6]))
    assert found.ids.tolist() == [1]
    np.testing.assert_array_equal(found.detections.boxes, [[104, 100, 144, 180]])
    assert found.detections.scores.tolist() == [np.float32(0.6)]


def test_an_object_may_be_hidden_for_less_than_a_second(tracker):
    for n in range(20):
        before = tracker.update(detections([[100 + 4 * n, 100, 140 + 4 * n, 180]]))
    for _ in range(6):
        assert len(tracker.update(detections([]))) == 0
    after = tracker.update(detections([[100 + 4 * 26, 100, 140 + 4 * 26, 180]]))
    assert after.ids.tolist() == before.ids.tolist() == [1]


def test_after_longer_than_a_second_it_is_somebody_else(tracker):
    for _ in range(3):
        tracker.update(detections([[100, 100, 140, 180]]))
    for _ in range(15):
        tracker.update(detections([]))
    tracker.update(detections([[100, 100, 140, 180]]))
    assert tracker.update(detections([[100, 100, 140, 180]])).ids.tolist() == [2]


def test_an_identity_keeps_its_class(tracker):
    boxes = [[100, 100, 140, 180]]
    ids = [tracker.update(detections(boxes, class_ids=[k])).ids.tolist() for k in (0, 0, 0, 1, 1, 0)]
    assert ids == [[], [1], [1], [], [2], [1]]


def test_rows_of_the_mot_format_are_those_of_the_challenge():
    found = Tracks(detections([[10, 20, 40.5, 60]], [0.75]), np.array([3]))
    assert mot_lines(found, 0) == "1,3,10.00,20.00,30.50,40.00,0.7500,-1,-1,-1\n"


def test_json_of_tracks_has_the_identities():
    (found,) = Tracks(detections([[10, 20, 40, 60]], [0.75]), np.array([3])).to_dict()["objects"]
    assert found == {"id": 3, "class": "person", "class_id": 0, "score": 0.75, "box": [10.0, 20.0, 40.0, 60.0]}


def test_trails_are_as_long_as_they_may_be_and_of_the_present_only():
    trails = Trails(rate=4)  # 6 frames
    for n in range(10):
        found = trails.update(tracks((1, 10 * n, 50), (2, 10 * n, 90)))
    assert found[1] == [(10.0 * n, 50.0) for n in range(4, 10)]
    assert set(trails.update(tracks((2, 0, 0)))) == {2}


def test_old_identities_are_forgotten():
    assert old_identities(range(2000)) == []
    assert old_identities(range(2001)) == list(range(1001))


def cross(counter, *steps):
    for step in steps:
        counter.update(tracks((1, *step)))
    return counter.to_left.total(), counter.to_right.total()


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        (((100, 50), (100, 150)), (0, 1)),  # down, from left to right of somebody who walks to the east
        (((100, 150), (100, 50)), (1, 0)),
        (((100, 50), (100, 150), (100, 50), (100, 150)), (1, 2)),
        (((100, 50), (100, 100), (100, 150)), (0, 1)),  # a stop on the line
        (((100, 50), (100, 100), (100, 60)), (0, 0)),  # back from the line
        (((300, 50), (300, 150)), (0, 0)),  # passes beside its end
        (((150, 50), (250, 150)), (0, 0)),  # and closely
        (((140, 50), (240, 150)), (0, 1)),
        (((100, 50),), (0, 0)),
    ],
)
def test_a_line_counts_what_crosses_it(steps, counts):
    assert cross(LineCounter((0, 100), (199, 100)), *steps) == counts


def test_left_and_right_turn_with_the_line():
    assert cross(LineCounter((200, 100), (0, 100)), (100, 50), (100, 150)) == (1, 0)
    assert cross(LineCounter((100, 0), (100, 200)), (50, 100), (150, 100)) == (1, 0)  # walking south, east is left


def test_a_zone_counts_who_is_and_who_ever_was_inside():
    """An L whose notch, at the upper right, is outside."""
    zone = ZoneCounter([(0, 0), (100, 0), (100, 100), (200, 100), (200, 200), (0, 200)])
    zone.update(tracks((1, 50, 50), (2, 150, 50), (3, 150, 150)))
    assert zone.inside == {"person": 2}
    zone.update(tracks((1, 300, 50), (2, 150, 150), (3, 150, 160)))
    assert zone.to_dict() == {
        "zone": [0, 0, 100, 0, 100, 100, 200, 100, 200, 200, 0, 200],
        "entered": {"person": 3},
        "inside": {"person": 2},
    }
    zone.update(tracks((1, 50, 50)))
    assert zone.entered == {"person": 3}


def test_counts_are_by_class():
    counter = LineCounter((0, 100), (640, 100))
    for y in (50, 150):
        boxes = [[90, y - 10, 110, y + 10], [190, y - 10, 210, y + 10]]
        counter.update(Tracks(detections(boxes, class_ids=[0, 1]), np.array([7, 8])))
    assert counter.to_dict() == {"line": [0, 100, 640, 100], "to_left": {}, "to_right": {"person": 1, "dog": 1}}


@pytest.mark.parametrize("text", ["1,2,3", "1,2", "a,b,c,d", "", "1,2,3,4,5,6"])
def test_a_bad_line_is_an_error(text):
    with pytest.raises(SettingsError, match="expected pixels such as x1,y1,x2,y2, with commas"):
        parse_points(text, "--line", 2, 2)


def test_a_zone_of_two_corners_is_an_error():
    with pytest.raises(SettingsError, match="needs at least 3"):
        ZoneCounter([(0, 0), (1, 1)])
