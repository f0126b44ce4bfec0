"""Which cells learn which targets: YOLOv4's assigner, for the whole batch at once."""

from typing import NamedTuple

import torch
from torch import Tensor


class Targets(NamedTuple):
    """The targets of a batch, one after another.

    Boxes are xyxy in input pixels.
    """

    boxes: Tensor  # (T, 4)
    class_ids: Tensor  # (T,)
    pictures: Tensor  # (T,) index within the batch


class Positives(NamedTuple):
    """Places that learn a target; no place occurs twice."""

    target: Tensor  # (P,) index into the targets
    level: Tensor  # (P,)
    anchor: Tensor  # (P,) index within the level
    row: Tensor  # (P,)
    column: Tensor  # (P,)
    picture: Tensor  # (P,)


def shape_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """``(T, 2)`` and ``(A, 2)`` widths and heights to the ``(T, A)`` IoU that they had about one centre."""
    shared = torch.minimum(sizes[:, None], anchors[None]).prod(dim=2)
    return shared / (sizes.prod(dim=1)[:, None] + anchors.prod(dim=1)[None] - shared).clamp(min=1e-9)


def assign(targets: Targets, anchors: Tensor, strides: Tensor, grids: Tensor, shape_iou_threshold: float) -> Positives:
    """Choose the positives.

    Each target is given to its best anchor of all levels, and to all others above the threshold, in the cell that holds
    its centre: YOLOv4 §3.4's "multiple anchors for a single ground truth". Where several targets want one place, the
    one whose shape fits the anchor best gets it, so that no place learns two classes.

    Args:
        targets: Of the whole batch.
        anchors: ``(L, A, 2)`` widths and heights, input pixels.
        strides: ``(L,)`` input pixels per cell.
        grids: ``(L, 2)`` rows and columns of each level.
        shape_iou_threshold: 1 leaves each target its best anchor alone, as YOLOv3 does.
    """
    num_levels, per_level, _ = anchors.shape
    overlap = shape_iou(targets.boxes[:, 2:] - targets.boxes[:, :2], anchors.flatten(0, 1))
    chosen = overlap > shape_iou_threshold
    if len(overlap):
        chosen[torch.arange(len(overlap), device=chosen.device), overlap.argmax(dim=1)] = True
    target, flat_anchor = chosen.nonzero(as_tuple=True)
    level, anchor = flat_anchor // per_level, flat_anchor % per_level
    centre = (targets.boxes[target, :2] + targets.boxes[target, 2:]) / 2
    cell = (centre / strides[level][:, None]).long().clamp(min=0)
    row = torch.minimum(cell[:, 1], grids[level, 0] - 1)
    column = torch.minimum(cell[:, 0], grids[level, 1] - 1)
    picture = targets.pictures[target]

    places = torch.stack((picture, level, anchor, row, column))
    extents = (num_levels, per_level, int(grids[:, 0].max()), int(grids[:, 1].max()))
    place = places[0]
    for index, extent in enumerate(extents, start=1):
        place = place * extent + places[index]
    by_fit = torch.argsort(overlap[target, flat_anchor], descending=True, stable=True)
    order = by_fit[torch.argsort(place[by_fit], stable=True)]
    first = torch.ones_like(place, dtype=torch.bool)
    first[1:] = place[order][1:] != place[order][:-1]
    winner = order[first]
    return Positives(target[winner], level[winner], anchor[winner], row[winner], column[winner], picture[winner])
