"""Boxes as tensors: raw outputs to boxes, and CIoU."""

import math

import torch
from torch import Tensor


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


def complete_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """CIoU of pairs of boxes, Zheng et al. 2020 (1911.08287) eq. 10.

    Args:
        boxes: ``(N, 4)`` xyxy, with a gradient.
        targets: ``(N, 4)`` xyxy.

    Returns:
        ``(N,)``: 1 for equal boxes, below 0 for distant ones.
    """
    tiny = 1e-7
    size, target_size = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    shared = (torch.minimum(boxes[:, 2:], targets[:, 2:]) - torch.maximum(boxes[:, :2], targets[:, :2])).clamp(min=0)
    intersection = shared.prod(dim=1)
    iou = intersection / (size.prod(dim=1) + target_size.prod(dim=1) - intersection + tiny)
    hull = torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])
    offset = (boxes[:, :2] + boxes[:, 2:] - targets[:, :2] - targets[:, 2:]) / 2
    distance = offset.square().sum(dim=1) / (hull.square().sum(dim=1) + tiny)
    angle = torch.atan2(target_size[:, 0], target_size[:, 1]) - torch.atan2(size[:, 0], size[:, 1])
    shape = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = shape / (1 - iou + shape + tiny)
    return iou - distance - weight * shape


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
