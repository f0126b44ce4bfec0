"""YOLOv4's loss: an overlap for boxes, binary cross-entropy for objectness and classes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.records import Record
from pocketdet.models.darknet.network import read_shape_iou
from pocketdet.models.head import HeadOutput
from pocketdet.training.assigner import Positives, Targets, assign
from pocketdet.training.boxes import BOX_OVERLAPS, decode_boxes, overlaps_any, split_anchors
from pocketdet.training.class_weights import weigh_classes
from pocketdet.training.settings import SHAPE_IOU, BoxLoss, TrainSettings

# A place without target whose box overlaps a target more than this is neither right nor wrong: darknet's
# ignore_thresh for YOLOv4.
IGNORE_IOU = 0.7
BOX_WEIGHT = 3.0


class Losses(NamedTuple):
    """The terms, each a sum over the batch divided by its number of positives."""

    total: Tensor
    box: Tensor
    objectness: Tensor
    classes: Tensor
    positives: Tensor  # how many; the terms were divided by at least 1


class DetectionLoss(nn.Module):
    """From raw head outputs and targets to one number.

    Every term is divided by the number of positives, not by the number of cells: averaged over all cells the few
    objects drown. Negatives are weighted by the square root of their own probability, so that the thousands of easy
    ones stay quiet.

    Args:
        metadata: Anchors, strides and grid sensitivity.
        label_smoothing: e moves class targets from 0 and 1 to e / 2 and 1 - e / 2.
        box_loss: The box term is 1 minus this overlap.
        shape_iou: A target is learned by every anchor whose shape overlaps it more than this, and by its best one.
        class_weights: ``(K,)`` of a positive, by the class of its target, in the class term and in the objectness;
            by default 1.
    """

    anchors: Tensor
    strides: Tensor
    scale_xy: Tensor
    class_weights: Tensor

    def __init__(
        self,
        metadata: ModelMetadata,
        label_smoothing: float = 0.0,
        box_loss: BoxLoss = "ciou",
        shape_iou: float = SHAPE_IOU,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.box_overlap = BOX_OVERLAPS[box_loss]
        self.shape_iou = shape_iou
        weights = class_weights or [1.0] * len(metadata.class_names)
        self.register_buffer("class_weights", torch.tensor(weights, dtype=torch.float32), persistent=False)
        self.register_buffer("anchors", torch.tensor(metadata.anchors, dtype=torch.float32), persistent=False)
        self.register_buffer("strides", torch.tensor(metadata.strides, dtype=torch.float32), persistent=False)
        self.register_buffer("scale_xy", torch.tensor(metadata.scale_xy, dtype=torch.float32), persistent=False)

    def forward(self, outputs: Sequence[HeadOutput], targets: Targets) -> Losses:
        """Compute the loss.

        Args:
            outputs: P3, P4, P5 as the head gives them.
            targets: Of the whole batch, boxes in input pixels.
        """
        grids = torch.tensor([output.objectness.shape[2:] for output in outputs], device=self.anchors.device)
        positives = assign(targets, self.anchors, self.strides, grids, self.shape_iou)
        boxes, classes = self._at_positives(outputs, positives)
        count = max(1, len(positives.target))

        box = (1 - self.box_overlap(boxes, targets.boxes[positives.target])).sum() / count
        class_ids = targets.class_ids[positives.target]
        weights = self.class_weights[class_ids]
        wanted = torch.full_like(classes, self.label_smoothing / 2)
        wanted.scatter_(1, class_ids[:, None], 1 - self.label_smoothing / 2)
        class_loss = binary_cross_entropy_with_logits(classes, wanted, weights[:, None], reduction="sum") / count
        objectness = self._objectness(outputs, targets, positives, weights) / count
        total = BOX_WEIGHT * box + objectness + class_loss
        return Losses(total, box, objectness, class_loss, box.new_tensor(len(positives.target)))

    def _at_positives(self, outputs: Sequence[HeadOutput], positives: Positives) -> tuple[Tensor, Tensor]:
        """``(P, 4)`` boxes in input pixels and ``(P, K)`` class logits, in the order of ``positives``."""
        num_anchors = self.anchors.shape[1]
        num_positives = len(positives.target)
        num_classes = outputs[0].classes.shape[1] // num_anchors
        boxes = self.anchors.new_zeros(num_positives, 4)
        classes = self.anchors.new_zeros(num_positives, num_classes)
        for level, output in enumerate(outputs):
            index = (positives.level == level).nonzero()[:, 0]
            picture, anchor, row, column = (
                part[index] for part in (positives.picture, positives.anchor, positives.row, positives.column)
            )
            box_logits = split_anchors(output.boxes, num_anchors)[picture, anchor, :, row, column].float()
            cells = torch.stack((column, row), dim=1)
            stride, scale_xy = self.strides[level], self.scale_xy[level]
            level_boxes = decode_boxes(box_logits, cells, self.anchors[level][anchor], stride, scale_xy)
            class_logits = split_anchors(output.classes, num_anchors)[picture, anchor, :, row, column].float()
            boxes = boxes.index_copy(0, index, level_boxes)
            classes = classes.index_copy(0, index, class_logits)
        return boxes, classes

    def _objectness(
        self, outputs: Sequence[HeadOutput], targets: Targets, positives: Positives, weights: Tensor
    ) -> Tensor:
        padded = _pad_targets(targets, len(outputs[0].objectness))
        total = self.anchors.new_zeros(())
        for level, output in enumerate(outputs):
            logits = output.objectness.float()  # (B, A, H, W)
            at = positives.level == level
            wanted = torch.zeros_like(logits)
            place = (positives.picture[at], positives.anchor[at], positives.row[at], positives.column[at])
            wanted[place] = 1
            with torch.no_grad():
                ignored = overlaps_any(self._all_boxes(output, level), padded, IGNORE_IOU).view_as(logits)
                weight = logits.sigmoid().sqrt() * ~ignored
                weight[place] = weights[at]
            total = total + binary_cross_entropy_with_logits(logits, wanted, weight, reduction="sum")
        return total

    def _all_boxes(self, output: HeadOutput, level: int) -> Tensor:
        """``(B, 4, A * H * W)`` boxes of a level in input pixels."""
        logits = split_anchors(output.boxes.detach(), self.anchors.shape[1]).float()  # (B, A, 4, H, W)
        height, width = logits.shape[3:]
        rows = torch.arange(height, device=logits.device, dtype=torch.float32)[:, None]
        columns = torch.arange(width, device=logits.device, dtype=torch.float32)
        stride, scale_xy = self.strides[level], self.scale_xy[level]
        shift = (scale_xy - 1) / 2
        centre_x = (logits[:, :, 0].sigmoid() * scale_xy - shift + columns) * stride
        centre_y = (logits[:, :, 1].sigmoid() * scale_xy - shift + rows) * stride
        half_size = logits[:, :, 2:].clamp(-20, 20).exp() * self.anchors[level][:, :, None, None] / 2
        half_width, half_height = half_size.unbind(dim=2)
        sides = (centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height)
        return torch.stack(sides, dim=1).flatten(2)


def build_loss(metadata: ModelMetadata, settings: TrainSettings, records: Sequence[Record]) -> DetectionLoss:
    """The loss that the settings ask for; the training pictures decide the weights of the classes."""
    weights = weigh_classes(records, len(metadata.class_names)) if settings.class_weights else None
    shape_iou = settings.shape_iou
    if shape_iou is None:
        shape_iou = read_shape_iou(metadata.configuration) if metadata.configuration else SHAPE_IOU
    return DetectionLoss(metadata, settings.label_smoothing, settings.box_loss, shape_iou, weights)


def _pad_targets(targets: Targets, batch: int) -> Tensor:
    """``(B, T, 4)``, each picture's boxes and then zeros; T is the fullest picture's count."""
    counts = torch.bincount(targets.pictures, minlength=batch)
    order = torch.argsort(targets.pictures, stable=True)
    start = counts.cumsum(0) - counts
    picture = targets.pictures[order]
    place = torch.arange(len(order), device=order.device) - start[picture]
    padded = targets.boxes.new_zeros(batch, int(counts.max()) if batch else 0, 4)
    padded[picture, place] = targets.boxes[order]
    return padded
