import dataclasses

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from pocketdet.core.decode import (
    Decoded,
    LevelLogits,
    box_diou,
    box_iou,
    decode_cells,
    decode_picture,
    non_maximum_suppression,
    sigmoid,
    vote,
)
from pocketdet.core.metadata import ModelMetadata

INPUT_SIZE = (64, 96)
NUM_CLASSES = 3
METADATA = ModelMetadata("mobilenet_v2", 1.0, 0.5, "same", ("cat", "cow", "dog"), INPUT_SIZE)
SILENT = -20.0  # a logit far below every threshold


def silent_levels(batch: int = 1) -> list[LevelLogits]:
    """Head outputs that find nothing."""
    levels = []
    for stride in METADATA.strides:
        height, width = (side // stride for side in INPUT_SIZE)
        shapes = [(batch, channels, height, width) for channels in (12, 3, 3 * NUM_CLASSES)]
        boxes, objectness, classes = (np.full(shape, SILENT, np.float32) for shape in shapes)
        levels.append(LevelLogits(boxes * 0, objectness, classes))
    return levels


def put(
    levels: list[LevelLogits],
    level: int,
    anchor: int,
    row: int,
    column: int,
    box: tuple[float, float, float, float],
    objectness: float,
    classes: dict[int, float],
    index: int = 0,
) -> None:
    levels[level].boxes[index, 4 * anchor : 4 * anchor + 4, row, column] = box
    levels[level].objectness[index, anchor, row, column] = objectness
    for class_id, logit in classes.items():
        levels[level].classes[index, NUM_CLASSES * anchor + class_id, row, column] = logit


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def test_a_box_of_the_middle_level_worked_by_hand():
    levels = silent_levels()
    # Level P4: stride 16, scale_xy 1.1, anchor 1 is 76 x 55. sigmoid(0) = 0.5 stays the middle of its cell.
    put(levels, 1, 1, row=2, column=3, box=(0, 0, np.log(0.5), np.log(0.4)), objectness=logit(0.8), classes={2: 0.0})
    decoded = decode_picture(levels, 0, METADATA, 0.25, 0.5)
    # Centre (3.5 * 16, 2.5 * 16) = (56, 40); size (38, 22); score 0.8 * 0.5.
    np.testing.assert_allclose(decoded.boxes, [[37, 29, 75, 51]], rtol=1e-5)
    np.testing.assert_allclose(decoded.scores, [0.4], rtol=1e-5)
    assert decoded.class_ids.tolist() == [2]


@pytest.mark.parametrize(
    ("level", "anchor", "centre_x", "size"),
    [
        # sigmoid(logit(0.9)) * s - (s - 1) / 2: 0.98 for 1.2, 0.94 for 1.1, 0.92 for 1.05; cell 1.
        (0, 0, (0.98 + 1) * 8, (12, 16)),
        (1, 2, (0.94 + 1) * 16, (72, 146)),
        (2, 2, (0.92 + 1) * 32, (459, 401)),
    ],
)
def test_every_level_has_its_stride_anchors_and_grid_sensitivity(level, anchor, centre_x, size):
    levels = silent_levels()
    put(levels, level, anchor, row=0, column=1, box=(logit(0.9), 0, 0, 0), objectness=9, classes={0: 9})
    ((x0, y0, x1, y1),) = decode_picture(levels, 0, METADATA, 0.5, 0.5).boxes
    np.testing.assert_allclose((x0 + x1) / 2, centre_x, rtol=1e-4)
    np.testing.assert_allclose((y0 + y1) / 2, METADATA.strides[level] / 2, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose((x1 - x0, y1 - y0), size, rtol=1e-5)


def decode_with_loops(levels: list[LevelLogits], index: int, threshold: float) -> list[tuple[float, ...]]:
    """The formulas of YOLOv3 §2.1 and YOLOv4 §3.4, cell by cell: score, class, box."""
    found = []
    for level, stride, scale, anchors in zip(
        levels, METADATA.strides, METADATA.scale_xy, METADATA.anchors, strict=True
    ):
        _, num_anchors, height, width = level.objectness.shape
        for a, row, column in np.ndindex(num_anchors, height, width):
            tx, ty, tw, th = (float(v) for v in level.boxes[index, 4 * a : 4 * a + 4, row, column])
            objectness = 1 / (1 + np.exp(-float(level.objectness[index, a, row, column])))
            x = (scale / (1 + np.exp(-tx)) - (scale - 1) / 2 + column) * stride
            y = (scale / (1 + np.exp(-ty)) - (scale - 1) / 2 + row) * stride
            w, h = anchors[a][0] * np.exp(tw), anchors[a][1] * np.exp(th)
            for class_id in range(NUM_CLASSES):
                logit = float(level.classes[index, a * NUM_CLASSES + class_id, row, column])
                score = objectness / (1 + np.exp(-logit))
                if score > threshold:
                    found.append((score, class_id, x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("index", [0, 1])
def test_random_outputs_decode_as_the_papers_formulas_written_as_loops(index):
    rng = np.random.default_rng(1)
    levels = [
        LevelLogits(*(rng.normal(0, 1.5, part.shape).astype(np.float32) for part in level))
        for level in silent_levels(batch=2)
    ]
    decoded = decode_picture(levels, index, METADATA, 0.3, iou_threshold=1.0, max_detections=3000)
    expected = np.array(decode_with_loops(levels, index, 0.3))
    assert len(expected) > 50
    np.testing.assert_allclose(decoded.scores, expected[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(decoded.class_ids, expected[:, 1])
    np.testing.assert_allclose(decoded.boxes, expected[:, 2:], rtol=1e-4, atol=1e-3)


def test_a_cell_answers_for_each_class_over_the_threshold():
    levels = silent_levels()
    put(levels, 0, 0, 0, 0, (0, 0, 0, 0), objectness=9, classes={0: logit(0.7), 1: logit(0.6), 2: logit(0.2)})
    decoded = decode_picture(levels, 0, METADATA, 0.5, 0.5)
    assert decoded.class_ids.tolist() == [0, 1]


def test_an_objectness_over_the_threshold_does_not_do_alone():
    levels = silent_levels()
    put(levels, 0, 0, 0, 0, (0, 0, 0, 0), objectness=logit(0.6), classes={0: logit(0.6)})
    assert len(decode_picture(levels, 0, METADATA, 0.35, 0.5).scores) == 1
    assert len(decode_picture(levels, 0, METADATA, 0.37, 0.5).scores) == 0


def test_nothing_found_has_the_shapes_and_types_of_something():
    decoded = decode_picture(silent_levels(), 0, METADATA, 0.25, 0.5)
    assert [part.shape for part in decoded] == [(0, 4), (0,), (0,)]
    assert [part.dtype for part in decoded] == [np.float32, np.float32, np.int64]


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_ends_of_the_threshold_keep_all_and_nothing(threshold):
    levels = silent_levels()
    put(levels, 1, 0, 0, 0, (0, 0, 0, 0), objectness=0, classes={0: -3, 1: 0, 2: 3})
    decoded = decode_picture(levels, 0, METADATA, threshold, 1.0)
    assert len(decoded.scores) == (NUM_CLASSES if threshold == 0 else 0)


def test_wild_outputs_give_finite_boxes_or_none():
    levels = silent_levels()
    put(levels, 0, 0, 0, 0, (1e30, -1e30, 1e30, 1e30), objectness=1e30, classes={0: 1e30})
    put(levels, 0, 1, 0, 0, (np.nan, 0, 0, 0), objectness=np.nan, classes={0: 9})
    decoded = decode_picture(levels, 0, METADATA, 0.25, 0.5)
    assert len(decoded.scores) == 1
    assert np.isfinite(decoded.boxes).all()


def test_at_most_max_detections_stay_and_they_are_the_best():
    levels = silent_levels()
    for column in range(10):
        put(levels, 0, 0, 2, column, (0, 0, -3, -3), objectness=9, classes={0: 0.1 * column})
    decoded = decode_picture(levels, 0, METADATA, 0.25, 0.5, max_detections=4)
    expected = 1 / (1 + np.exp(-np.array([0.9, 0.8, 0.7, 0.6])))
    np.testing.assert_allclose(decoded.scores, expected, rtol=1e-3)


def test_levels_of_another_metadata_are_not_decoded_silently():
    metadata = dataclasses.replace(METADATA, strides=(8, 16))
    with pytest.raises(ValueError, match="zip"):
        decode_picture(silent_levels(), 0, metadata, 0.25, 0.5)


@given(st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=20))
def test_sigmoid_is_torchs(values):
    x = np.array(values, np.float32)
    np.testing.assert_allclose(sigmoid(x), torch.from_numpy(x).sigmoid().numpy(), rtol=1e-5, atol=1e-7)
    assert sigmoid(x).dtype == np.float32


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        ((0, 0, 10, 10), (2, 2, 7, 6), 20 / 100),  # inside
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),  # touching
        ((0, 0, 10, 10), (20, 20, 30, 30), 0),
        ((-5, -5, 5, 5), (0, 0, 10, 10), 25 / 175),
        ((3, 3, 3, 9), (0, 0, 10, 10), 0),  # no area
        ((3, 3, 3, 3), (3, 3, 3, 3), 0),  # neither has an area
    ],
)
def test_overlaps_worked_by_hand(first, second, expected):
    a, b = np.array([first], np.float32), np.array([second], np.float32)
    assert box_iou(a, b) == pytest.approx(expected, abs=1e-6)
    assert box_iou(b, a) == pytest.approx(expected, abs=1e-6)


def random_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    corner, size = rng.uniform(0, 80, (number, 2)), rng.uniform(1, 60, (number, 2))
    return np.concatenate((corner, corner + size), axis=1).astype(np.float32)


def test_box_iou_is_torchvisions():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 30), random_boxes(rng, 20)
    expected = torchvision.ops.box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(box_iou(a, b), expected, atol=1e-6)


def test_box_iou_of_no_boxes_is_empty():
    none, one = np.zeros((0, 4), np.float32), np.array([[0, 0, 1, 1]], np.float32)
    assert box_iou(none, one).shape == (0, 1)
    assert box_iou(one, none).shape == (1, 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 4), st.sampled_from([0.3, 0.5, 0.65, 0.9]))
def test_nms_keeps_what_torchvision_keeps(seed, number, num_classes, iou_threshold):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, number)
    scores = rng.permutation(np.linspace(0.1, 0.9, number)).astype(np.float32)  # no ties: their order is nobody's
    class_ids = rng.integers(0, num_classes, number)
    expected = torchvision.ops.batched_nms(*map(torch.from_numpy, (boxes, scores, class_ids)), iou_threshold)
    kept = non_maximum_suppression(boxes, scores, class_ids, iou_threshold)
    np.testing.assert_array_equal(kept, expected.numpy())


def test_nms_within_one_class_is_torchvisions_plain_nms():
    rng = np.random.default_rng(3)
    boxes, scores = random_boxes(rng, 300), rng.permutation(300).astype(np.float32)
    expected = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5).numpy()
    np.testing.assert_array_equal(non_maximum_suppression(boxes, scores, np.zeros(300, np.int64), 0.5), expected)


@given(st.integers(1, 150))
def test_nms_keeps_the_first_of_what_it_keeps_without_a_limit(limit):
    rng = np.random.default_rng(5)
    boxes, scores = random_boxes(rng, 400), rng.permutation(400).astype(np.float32)
    class_ids = rng.integers(0, 3, 400)
    everything = non_maximum_suppression(boxes, scores, class_ids, 0.6, max_detections=400)
    assert 150 < len(everything) < 400
    limited = non_maximum_suppression(boxes, scores, class_ids, 0.6, max_detections=limit)
    np.testing.assert_array_equal(limited, everything[:limit])


def test_nms_keeps_an_overlap_of_exactly_the_threshold_and_other_classes():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10]], np.float32)  # the first two: IoU 0.5
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert non_maximum_suppression(boxes, scores, np.array([0, 0, 1]), 0.5).tolist() == [0, 1, 2]
    assert non_maximum_suppression(boxes, scores, np.array([0, 0, 0]), 0.499).tolist() == [0]


def test_box_diou_is_torchvisions():
    rng = np.random.default_rng(4)
    a, b = random_boxes(rng, 30), random_boxes(rng, 20)
    expected = torchvision.ops.distance_box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(box_diou(a, b), expected, atol=1e-5)


def test_box_diou_of_two_points_in_one_place_is_zero_and_no_warning():
    point = np.array([[3, 3, 3, 3]], np.float32)
    assert box_diou(point, point).item() == 0


def diou(a: list[float], b: list[float]) -> float:
    """1911.08287 eq. 7, in the words of the paper."""
    width, height = (max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    distance = sum(((a[k] + a[k + 2]) / 2 - (b[k] + b[k + 2]) / 2) ** 2 for k in (0, 1))
    diagonal = sum((max(a[k + 2], b[k + 2]) - min(a[k], b[k])) ** 2 for k in (0, 1))
    return width * height / union - distance / diagonal


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 3), st.sampled_from([0.2, 0.5, 0.7]))
def test_diou_nms_keeps_what_a_loop_over_pairs_keeps(seed, number, num_classes, threshold):
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, number), rng.permutation(np.linspace(0.1, 0.9, number)).astype(np.float32)
    class_ids = rng.integers(0, num_classes, number)
    kept: list[int] = []
    for candidate in sorted(range(number), key=lambda index: -scores[index]):
        rivals = [other for other in kept if class_ids[other] == class_ids[candidate]]
        if all(diou(boxes[candidate].tolist(), boxes[other].tolist()) <= threshold for other in rivals):
            kept.append(candidate)
    assert non_maximum_suppression(boxes, scores, class_ids, threshold, nms="diou").tolist() == kept


def test_only_diou_nms_keeps_a_box_that_overlaps_much_and_lies_aside():
    # IoU 60 / 100 = 0.6; centres 2.5 apart, hull 12.5 x 8: DIoU 0.6 - 6.25 / 220.25 = 0.572.
    boxes = np.array([[0, 0, 10, 8], [2.5, 0, 12.5, 8]], np.float32)
    scores, class_ids = np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64)
    assert non_maximum_suppression(boxes, scores, class_ids, 0.58).tolist() == [0]
    assert non_maximum_suppression(boxes, scores, class_ids, 0.58, nms="diou").tolist() == [0, 1]


def test_nms_of_nothing_is_nothing():
    kept = non_maximum_suppression(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == np.int64


def test_boxes_that_nms_suppresses_vote_with_the_square_of_their_score():
    # 0.4 is half of 0.8 and weighs 1/4 - 1/16 where its box weighs 15/16; it overlaps by 3/4, which is enough.
    near = [[0, 0, 12, 10, 0.8, 0], [0, 0, 12, 7.5, 0.4, 0]]
    # Of another class; of less than a quarter of the score; with an overlap of 0.4; with none, alone.
    others = [[0, 0, 12, 9, 0, 0.7], [0, 0, 12, 10, 0.19, 0], [0, 0, 12, 4, 0.7, 0], [50, 0, 62, 10, 0.6, 0]]
    decoded = decode_cells(np.array(near + others, np.float32), 0.5, iou_threshold=0.3)
    np.testing.assert_allclose(decoded.scores, np.array([0.8, 0.7, 0.6], np.float32))
    assert decoded.class_ids.tolist() == [0, 1, 0]
    y = (15 * 10 + 3 * 7.5) / 18
    np.testing.assert_allclose(decoded.boxes, [[0, 0, 12, y], [0, 0, 12, 9], [50, 0, 62, 10]], rtol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.5))
def test_a_threshold_takes_objects_and_moves_none(seed, threshold):
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, 100), rng.uniform(0, 1, (100, 1)).astype(np.float32)
    cells = np.concatenate((boxes, scores), axis=1)
    few, many = decode_cells(cells, threshold, 0.5), decode_cells(cells, 0.01, 0.5)
    np.testing.assert_allclose(few.boxes, many.boxes[many.scores > threshold], rtol=1e-5, atol=1e-5)


OVERLAPS = {"iou": torchvision.ops.box_iou, "diou": torchvision.ops.distance_box_iou}


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 200),
    st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]),
    st.sampled_from(["iou", "diou"]),
)
def test_votes_are_those_of_a_loop_over_boxes(seed, number, threshold, nms):
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, number), rng.permutation(np.linspace(0.1, 0.9, number)).astype(np.float32)
    class_ids = rng.integers(0, 2, number)
    keep = non_maximum_suppression(boxes, scores, class_ids, threshold, nms=nms)
    found = vote(Decoded(boxes, scores, class_ids), keep, threshold, nms)
    overlaps = OVERLAPS[nms](torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    for place, index in enumerate(keep):
        weights = np.zeros(number)
        for other in np.flatnonzero(class_ids == class_ids[index]):
            part = min(max((overlaps[index, other] - max(threshold, 0.5)) / 0.2, 0), 1)
            weights[other] = part * max(float(scores[other] / scores[index]) ** 2 - 1 / 16, 0)
        expected = np.average(boxes, axis=0, weights=weights) if weights.any() else boxes[index]
        np.testing.assert_allclose(found[place], expected, rtol=1e-4)


def test_a_score_of_next_to_nothing_still_has_a_box():
    boxes, scores = np.array([[0, 0, 4, 4], [0, 0, 4, 5]], np.float32), np.array([1e-30, 1e-31], np.float32)
    found = vote(Decoded(boxes, scores, np.zeros(2, np.int64)), np.array([0]), 0.5)
    np.testing.assert_allclose(found, [[0, 0, 4, 4.5]])  # both as good as nothing
