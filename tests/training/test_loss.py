"""The vectorised loss and assigner against an obviously right version in loops."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from pocketdet.core.decode import LevelLogits, decode_picture
from pocketdet.core.metadata import ModelMetadata
from pocketdet.models.head import HeadOutput
from pocketdet.training.assigner import Targets, assign
from pocketdet.training.boxes import BOX_OVERLAPS, complete_iou, decode_boxes
from pocketdet.training.loss import BOX_WEIGHT, IGNORE_IOU, DetectionLoss
from pocketdet.training.settings import SHAPE_IOU, BoxLoss

NAMES = ("cat", "cow", "dog", "horse")
METADATA = ModelMetadata("mobilenet_v2", 1.0, 0.5, "symmetric", NAMES, (96, 128))


def random_outputs(batch: int, seed: int) -> list[HeadOutput]:
    generator = torch.Generator().manual_seed(seed)
    return [
        HeadOutput(
            *(
                torch.randn(batch, channels, 96 // stride, 128 // stride, generator=generator).requires_grad_()
                for channels in (12, 3, 3 * len(NAMES))
            )
        )
        for stride in METADATA.strides
    ]


def random_targets(batch: int, count: int, seed: int) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([128.0, 96.0])
    size = torch.rand(count, 2, generator=generator) * 80 + 4
    boxes = torch.cat((centre - size / 2, centre + size / 2), dim=1)
    class_ids = torch.randint(len(NAMES), (count,), generator=generator)
    return Targets(boxes, class_ids, torch.randint(batch, (count,), generator=generator))


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def looped_positives(targets: Targets, threshold: float = SHAPE_IOU) -> dict[tuple[int, int, int, int, int], int]:
    """Place (picture, level, anchor, row, column) to the target that it learns."""
    wanted: dict[tuple[int, int, int, int, int], list[tuple[float, int]]] = {}
    for number, box in enumerate(targets.boxes.tolist()):
        width, height = box[2] - box[0], box[3] - box[1]
        fits = {
            (level, anchor): iou([0, 0, width, height], [0, 0, *METADATA.anchors[level][anchor]])
            for level in range(3)
            for anchor in range(3)
        }
        best = max(fits, key=lambda place: fits[place])
        for (level, anchor), fit in fits.items():
            if fit > threshold or (level, anchor) == best:
                stride = METADATA.strides[level]
                column = min(max(int((box[0] + box[2]) / 2 / stride), 0), 128 // stride - 1)
                row = min(max(int((box[1] + box[3]) / 2 / stride), 0), 96 // stride - 1)
                place = (int(targets.pictures[number]), level, anchor, row, column)
                wanted.setdefault(place, []).append((fit, number))
    return {place: max(claims, key=lambda claim: (claim[0], -claim[1]))[1] for place, claims in wanted.items()}


def bce(logit: Tensor, target: float) -> Tensor:
    return -(target * torch.nn.functional.logsigmoid(logit) + (1 - target) * torch.nn.functional.logsigmoid(-logit))


def looped_loss(
    outputs: list[HeadOutput],
    targets: Targets,
    smoothing: float,
    shape_iou: float = SHAPE_IOU,
    class_weights: tuple[float, ...] = (1, 1, 1, 1),
) -> Tensor:
    """Place by place, in the words of the paper."""
    positives = looped_positives(targets, shape_iou)
    total = torch.zeros(())
    num_classes = len(NAMES)
    for level, (output, stride, scale_xy) in enumerate(zip(outputs, METADATA.strides, METADATA.scale_xy, strict=True)):
        batch, num_anchors, height, width = output.objectness.shape
        for picture in range(batch):
            truths = [box for box, p in zip(targets.boxes.tolist(), targets.pictures, strict=True) if p == picture]
            for anchor in range(num_anchors):
                for row in range(height):
                    for column in range(width):
                        raw = output.boxes[picture, 4 * anchor : 4 * anchor + 4, row, column]
                        centre_x = (raw[0].sigmoid() * scale_xy - (scale_xy - 1) / 2 + column) * stride
                        centre_y = (raw[1].sigmoid() * scale_xy - (scale_xy - 1) / 2 + row) * stride
                        w = raw[2].exp() * METADATA.anchors[level][anchor][0]
                        h = raw[3].exp() * METADATA.anchors[level][anchor][1]
                        box = torch.stack((centre_x - w / 2, centre_y - h / 2, centre_x + w / 2, centre_y + h / 2))
                        logit = output.objectness[picture, anchor, row, column]
                        number = positives.get((picture, level, anchor, row, column))
                        if number is None:
                            if all(iou(box.tolist(), truth) <= IGNORE_IOU for truth in truths):
                                total = total + logit.detach().sigmoid().sqrt() * bce(logit, 0)
                            continue
                        weight = class_weights[int(targets.class_ids[number])]
                        total = total + weight * bce(logit, 1)
                        total = total + BOX_WEIGHT * (1 - looped_ciou(box, targets.boxes[number]))
                        for k in range(num_classes):
                            hot = float(k == targets.class_ids[number])
                            class_logit = output.classes[picture, num_classes * anchor + k, row, column]
                            total = total + weight * bce(class_logit, hot * (1 - smoothing) + smoothing / 2)
    return total / max(1, len(positives))


def looped_ciou(box: Tensor, truth: Tensor) -> Tensor:
    w, h, tw, th = box[2] - box[0], box[3] - box[1], truth[2] - truth[0], truth[3] - truth[1]
    zero = torch.zeros(())
    shared = torch.maximum(torch.minimum(box[2], truth[2]) - torch.maximum(box[0], truth[0]), zero)
    shared = shared * torch.maximum(torch.minimum(box[3], truth[3]) - torch.maximum(box[1], truth[1]), zero)
    overlap = shared / (w * h + tw * th - shared)
    dx, dy = (box[0] + box[2] - truth[0] - truth[2]) / 2, (box[1] + box[3] - truth[1] - truth[3]) / 2
    hull_w = torch.maximum(box[2], truth[2]) - torch.minimum(box[0], truth[0])
    hull_h = torch.maximum(box[3], truth[3]) - torch.minimum(box[1], truth[1])
    v = 4 / math.pi**2 * (torch.atan(tw / th) - torch.atan(w / h)) ** 2
    alpha = (v / (1 - overlap + v)).detach()
    return overlap - (dx**2 + dy**2) / (hull_w**2 + hull_h**2) - alpha * v


@pytest.mark.parametrize(("count", "smoothing", "seed"), [(9, 0.0, 0), (30, 0.1, 1), (1, 0.2, 2), (0, 0.0, 3)])
def test_the_loss_and_its_gradient_are_those_of_the_looped_version(count: int, smoothing: float, seed: int) -> None:
    targets = random_targets(2, count, seed)
    ours, theirs = random_outputs(2, seed), random_outputs(2, seed)
    loss, expected = DetectionLoss(METADATA, smoothing)(ours, targets).total, looped_loss(theirs, targets, smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert_same_gradients(loss, ours, expected, theirs)


def test_weights_and_a_higher_shape_iou_give_the_loss_and_gradient_of_the_looped_version() -> None:
    targets, weights = random_targets(2, 20, 4), (0.4, 3.0, 1.0, 0.7)
    ours, theirs = random_outputs(2, 4), random_outputs(2, 4)
    loss = DetectionLoss(METADATA, 0.1, shape_iou=0.5, class_weights=weights)(ours, targets).total
    expected = looped_loss(theirs, targets, 0.1, 0.5, weights)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert_same_gradients(loss, ours, expected, theirs)


def assert_same_gradients(loss: Tensor, ours: list[HeadOutput], expected: Tensor, theirs: list[HeadOutput]) -> None:
    loss.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.grad is not None
            wanted = torch.zeros_like(x) if y.grad is None else y.grad
            torch.testing.assert_close(x.grad, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape_iou", [SHAPE_IOU, 0.6, 1.0])
def test_places_are_those_of_the_looped_version_and_none_occurs_twice(shape_iou: float) -> None:
    targets = random_targets(3, 80, 5)
    grids = torch.tensor([[96 // stride, 128 // stride] for stride in METADATA.strides])
    found = assign(targets, torch.tensor(METADATA.anchors), torch.tensor(METADATA.strides), grids, shape_iou)
    places = list(
        zip(
            *(part.tolist() for part in (found.picture, found.level, found.anchor, found.row, found.column)),
            strict=True,
        )
    )
    assert len(set(places)) == len(places)
    assert dict(zip(places, found.target.tolist(), strict=True)) == looped_positives(targets, shape_iou)


def test_two_targets_in_one_cell_never_make_a_two_hot_class() -> None:
    box = [30.0, 30.0, 60.0, 90.0]
    targets = Targets(torch.tensor([box, box]), torch.tensor([0, 2]), torch.tensor([0, 0]))
    grids = torch.tensor([[96 // stride, 128 // stride] for stride in METADATA.strides])
    found = assign(targets, torch.tensor(METADATA.anchors), torch.tensor(METADATA.strides), grids, SHAPE_IOU)
    assert set(found.target.tolist()) == {0}


def test_label_smoothing_moves_the_best_class_logit_to_a_finite_place() -> None:
    """With e the optimum of a class probability is 1 - e / 2, where the gradient vanishes; without, it never does."""
    targets = Targets(torch.tensor([[30.0, 30.0, 60.0, 90.0]]), torch.tensor([1]), torch.tensor([0]))
    for smoothing, is_flat in ((0.2, True), (0.0, False)):
        outputs = random_outputs(1, 0)
        logit = math.log(0.9 / 0.1)
        with torch.no_grad():
            for output in outputs:
                output.classes.fill_(-logit)
                output.classes[:, 1 :: len(NAMES)] = logit
        DetectionLoss(METADATA, smoothing)(outputs, targets).classes.backward()
        largest = max(float(output.classes.grad.abs().max()) for output in outputs if output.classes.grad is not None)
        assert (largest < 1e-6) == is_flat


def test_with_a_shape_iou_of_one_every_target_has_its_best_anchor_alone() -> None:
    """Shapes of anchors themselves, one of them twice, in pictures of their own."""
    sizes = torch.tensor([METADATA.anchors[0][1], METADATA.anchors[1][2], METADATA.anchors[1][2]])
    targets = Targets(
        torch.cat((50 - sizes / 2, 50 + sizes / 2), dim=1), torch.zeros(3, dtype=torch.long), torch.arange(3)
    )
    grids = torch.tensor([[96 // stride, 128 // stride] for stride in METADATA.strides])
    anchors, strides = torch.tensor(METADATA.anchors), torch.tensor(METADATA.strides)
    found = assign(targets, anchors, strides, grids, 1.0)
    assert sorted(zip(found.target.tolist(), found.level.tolist(), found.anchor.tolist(), strict=True)) == [
        (0, 0, 1), (1, 1, 2), (2, 1, 2),
    ]  # fmt: skip
    assert len(assign(targets, anchors, strides, grids, SHAPE_IOU).target) > 3


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("ciou", torchvision.ops.complete_box_iou_loss),
        ("diou", torchvision.ops.distance_box_iou_loss),
        ("giou", torchvision.ops.generalized_box_iou_loss),
    ],
)
def test_each_box_loss_and_its_gradient_are_torchvisions(name: BoxLoss, oracle: Callable[..., Tensor]) -> None:
    boxes, targets = (random_targets(1, 200, seed).boxes.requires_grad_(seed == 0) for seed in (0, 1))
    loss, expected = 1 - BOX_OVERLAPS[name](boxes, targets), oracle(boxes, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    (ours,), (theirs,) = torch.autograd.grad(loss.sum(), boxes), torch.autograd.grad(expected.sum(), boxes)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    outputs = random_outputs(2, 6)
    terms = {key: DetectionLoss(METADATA, box_loss=key)(outputs, random_targets(2, 9, 6)).box for key in BOX_OVERLAPS}
    assert all(abs(terms[key] - terms[name]) > 1e-4 for key in BOX_OVERLAPS if key != name)


def test_ciou_is_one_for_equal_boxes_and_below_zero_for_distant_ones() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    assert complete_iou(box, box).item() == pytest.approx(1, abs=1e-5)
    # IoU 0, centres 100 apart in x, hull 110 x 20: -100^2 / (110^2 + 20^2)
    assert complete_iou(box + torch.tensor([100.0, 0, 100, 0]), box).item() == pytest.approx(-0.8, abs=1e-4)


def test_training_and_the_runtime_decode_the_same_boxes() -> None:
    outputs = random_outputs(1, 7)
    levels = [LevelLogits(*(part.detach().numpy() for part in output)) for output in outputs]
    found = decode_picture(levels, 0, METADATA, score_threshold=0.5, iou_threshold=1.0)
    assert len(found.boxes) > 20
    ours = []
    for level, (output, stride) in enumerate(zip(outputs, METADATA.strides, strict=True)):
        for anchor in range(3):
            height, width = output.objectness.shape[2:]
            row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            raw = output.boxes[0, 4 * anchor : 4 * anchor + 4].permute(1, 2, 0).detach()
            size = torch.tensor(METADATA.anchors[level][anchor], dtype=torch.float32)
            cells = torch.stack((column, row), dim=-1)
            ours.append(decode_boxes(raw, cells, size, stride, METADATA.scale_xy[level]).reshape(-1, 4))
    distance = (torch.cat(ours)[None] - torch.from_numpy(found.boxes)[:, None]).abs().amax(dim=2).amin(dim=1)
    assert distance.max() < 1e-3
