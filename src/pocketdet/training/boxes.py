"""Boxes as tensors: raw outputs to boxes, and the overlaps that the loss makes large."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pocketdet.training.settings import BoxLoss

TINY = 1e-7  # keeps divisions finite


def split_anchors(channels: Tensor, num_anchors: int) -> Tensor:
    """``(B, A * C, H, W)`` of the head to ``(B, A, C, H, W)``."""
    batch, _, height, width = channels.shape
    return channels.reshape(batch, num_anchors, -1, height, width)


def decode_boxes(
    logits: Tensor, cells: Tensor, anchors: Tensor, stride: Tensor | float, scale_xy: Tensor | float
) -> Tensor:
    """Turn raw box outputs into boxes; what ``pocketdet.core.decode`` does in numpy, with a gradient.

    The centre is relative to its cell and the size to its anchor, YOLOv3 §2.1, with YOLOv4's grid sensitivity, §3.4.

    Args:
        logits: ``(..., 4)`` tx, ty, tw, th.
        cells: ``(..., 2)`` column and row of the cell.
        anchors: ``(..., 2)`` width and height, input pixels.
        stride: ``(..., 1)`` or one number, input pixels per cell.
        scale_xy: ``(..., 1)`` or one number.

    Returns:
        ``(..., 4)`` xyxy, input pixels.
    """
    centre = (logits[..., :2].sigmoid() * scale_xy - (scale_xy - 1) / 2 + cells) * stride
    half = logits[..., 2:].clamp(-20, 20).exp() * anchors / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def generalized_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """GIoU of pairs of boxes, Rezatofighi et al. 2019 (1902.09630) algorithm 1.

    Args:
        boxes: ``(N, 4)`` xyxy, with a gradient.
        targets: ``(N, 4)`` xyxy.

    Returns:
        ``(N,)``: 1 for equal boxes, towards -1 for distant ones.
    """
    iou, union = _iou_and_union(boxes, targets)
    hull = _hull_size(boxes, targets).prod(dim=1)
    return iou - (hull - union) / (hull + TINY)


def distance_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """DIoU of pairs of boxes, Zheng et al. 2020 (1911.08287) eq. 7; shapes as ``generalized_iou``."""
    iou, _ = _iou_and_union(boxes, targets)
    return iou - _centre_distance(boxes, targets)


def complete_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """CIoU of pairs of boxes, Zheng et al. 2020 (1911.08287) eq. 10; shapes as ``generalized_iou``."""
    iou, _ = _iou_and_union(boxes, targets)
    size, target_size = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    angle = torch.atan2(target_size[:, 0], target_size[:, 1]) - torch.atan2(size[:, 0], size[:, 1])
    shape = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = shape / (1 - iou + shape + TINY)
    return iou - _centre_distance(boxes, targets) - weight * shape


BOX_OVERLAPS: dict[BoxLoss, Callable[[Tensor, Tensor], Tensor]] = {
    "ciou": complete_iou,
    "diou": distance_iou,
    "giou": generalized_iou,
}


def _iou_and_union(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    area, target_area = ((b[:, 2:] - b[:, :2]).prod(dim=1) for b in (boxes, targets))
    shared = (torch.minimum(boxes[:, 2:], targets[:, 2:]) - torch.maximum(boxes[:, :2], targets[:, :2])).clamp(min=0)
    intersection = shared.prod(dim=1)
    union = area + target_area - intersection
    return intersection / (union + TINY), union


def _hull_size(boxes: Tensor, targets: Tensor) -> Tensor:
    """``(N, 2)`` width and height of the smallest box around both."""
    return torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])


def _centre_distance(boxes: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the box around both: 1911.08287 eq. 6."""
    offset = (boxes[:, :2] + boxes[:, 2:] - targets[:, :2] - targets[:, 2:]) / 2
    return offset.square().sum(dim=1) / (_hull_size(boxes, targets).square().sum(dim=1) + TINY)


def overlaps_any(boxes: Tensor, targets: Tensor, threshold: float) -> Tensor:
    """Whether a box overlaps any target of its picture by more than a threshold.

    Args:
        boxes: ``(B, 4, N)`` xyxy; coordinates come before boxes so that each is one run of memory.
        targets: ``(B, T, 4)`` xyxy, padded with zeros.
        threshold: IoU.

    Returns:
        ``(B, N)`` bool.
    """
    left, top, right, bottom = boxes[:, :, None].unbind(dim=1)  # (B, 1, N) each
    target_left, target_top, target_right, target_bottom = targets.transpose(1, 2)[..., None].unbind(dim=1)  # (B, T, 1)
    width = torch.minimum(right, target_right).sub_(torch.maximum(left, target_left)).clamp_(min=0)
    height = torch.minimum(bottom, target_bottom).sub_(torch.maximum(top, target_top))
    shared = width.mul_(height)  # negative where the heights do not meet, and so below any bar
    # iou = shared / (area + target_area - shared) > t  <=>  shared > (area + target_area) * t / (1 + t)
    share = threshold / (1 + threshold)
    area = (right - left) * (bottom - top) * share
    target_area = (target_right - target_left) * (target_bottom - target_top) * share
    return (shared.sub_(target_area) > area).any(dim=1)
