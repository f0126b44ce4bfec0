"""The one decoder and the one NMS, in float32 numpy: for training's validation and for every file format."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.metadata import ModelMetadata

Floats = NDArray[np.float32]
Nms = Literal["iou", "diou"]

NMS_BLOCK = 64  # boxes that are compared with each other at once


class LevelLogits(NamedTuple):
    """Raw head outputs of one level; a file's outputs are these three for P3, then P4, then P5.

    Channels go anchor by anchor: of ``boxes`` tx, ty, tw, th of anchor 0, then of anchor 1;
    of ``classes`` all K of anchor 0 first.
    """

    boxes: Floats  # (B, A * 4, H, W)
    objectness: Floats  # (B, A, H, W)
    classes: Floats  # (B, A * K, H, W)


class Decoded(NamedTuple):
    """Boxes of one picture, best score first."""

    boxes: Floats  # (N, 4) xyxy, input pixels
    scores: Floats  # (N,) objectness x class probability
    class_ids: NDArray[np.int64]  # (N,)


def decode_picture(
    levels: Sequence[LevelLogits],
    index: int,
    metadata: ModelMetadata,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int = 300,
    nms: Nms = "iou",
) -> Decoded:
    """Raw head outputs to boxes of one picture.

    A pair of a box and a class is kept where objectness x class probability passes the threshold.

    Args:
        levels: P3, P4, P5 of the whole batch.
        index: Which picture of the batch.
        metadata: Anchors, strides and grid sensitivity.
        score_threshold: 0 to 1.
        iou_threshold: Boxes of one class that overlap more than this are one object.
        max_detections: At most so many, best first.
        nms: What counts as overlap.
    """
    floor = _logit(score_threshold)  # a score exceeds neither its objectness nor its class probability
    constants = zip(levels, metadata.anchors, metadata.strides, metadata.scale_xy, strict=True)
    found = [_cells_over(floor, index, *of_level) for of_level in constants]
    cells = _Cells(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    place, class_ids = np.nonzero(cells.classes > floor)
    scores = sigmoid(cells.objectness[place]) * sigmoid(cells.classes[place, class_ids])
    good = scores > score_threshold
    place, class_ids, scores = place[good], class_ids[good], scores[good]
    boxes = _decode_boxes(cells, place)
    keep = non_maximum_suppression(boxes, scores, class_ids, iou_threshold, max_detections, nms=nms)
    return Decoded(boxes[keep], scores[keep], class_ids[keep])


def decode_cells(
    cells: Floats, score_threshold: float, iou_threshold: float, max_detections: int = 300, nms: Nms = "iou"
) -> Decoded:
    """As ``decode_picture``, of what a file gives that decodes by itself.

    Args:
        cells: ``(N, 4 + K)`` of one picture: xyxy in input pixels and a score a class, of every anchor of every cell.
        score_threshold: 0 to 1.
        iou_threshold: Boxes of one class that overlap more than this are one object.
        max_detections: At most so many, best first.
        nms: What counts as overlap.
    """
    place, class_ids = np.nonzero(cells[:, 4:] > score_threshold)
    boxes, scores = cells[place, :4], cells[place, 4 + class_ids]
    keep = non_maximum_suppression(boxes, scores, class_ids, iou_threshold, max_detections, nms=nms)
    return Decoded(boxes[keep], scores[keep], class_ids[keep])


class _Cells(NamedTuple):
    """What the head says at some cells, raw, and what turns it into boxes."""

    boxes: Floats  # (M, 4)
    objectness: Floats  # (M,)
    classes: Floats  # (M, K)
    corner: Floats  # (M, 2) column and row
    anchor: Floats  # (M, 2) width and height, input pixels
    constants: Floats  # (M, 3) of the level: stride, grid sensitivity s, (s - 1) / 2


def _cells_over(
    floor: float,
    index: int,
    level: LevelLogits,
    anchors: Sequence[tuple[float, float]],
    stride: int,
    scale_xy: float,
) -> _Cells:
    """The cells and anchors of one level with an objectness logit over the floor."""
    num_anchors, height, width = level.objectness.shape[1:]
    objectness = level.objectness[index].ravel()
    found = np.flatnonzero(objectness > floor)
    anchor, cell = np.divmod(found, height * width)
    corner = np.empty((len(found), 2), np.float32)
    corner[:, 1], corner[:, 0] = np.divmod(cell, width)
    return _Cells(
        level.boxes[index].reshape(num_anchors, 4, -1)[anchor, :, cell],
        objectness[found],
        level.classes[index].reshape(num_anchors, -1, height * width)[anchor, :, cell],
        corner,
        np.array(anchors, np.float32)[anchor],
        np.array([(stride, scale_xy, (scale_xy - 1) / 2)] * len(found), np.float32).reshape(-1, 3),
    )


def _decode_boxes(cells: _Cells, place: NDArray[np.int64]) -> Floats:
    """``(N, 4)`` xyxy in input pixels, of the cells at ``place``."""
    boxes = cells.boxes[place]
    stride, scale_xy, shift = cells.constants[place].T[..., None]
    # Grid sensitivity, YOLOv4 §3.4: the centre may reach the border of its cell.
    centre = (sigmoid(boxes[:, :2]) * scale_xy - shift + cells.corner[place]) * stride
    half = np.exp(np.minimum(np.maximum(boxes[:, 2:], -20), 20)) * cells.anchor[place] / 2
    return np.concatenate((centre - half, centre + half), axis=1, dtype=np.float32)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    probability: Floats = np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))
    return probability


def _logit(probability: float) -> float:
    if probability <= 0:
        return -np.inf
    return float(np.log(probability / (1 - probability))) if probability < 1 else np.inf


def box_iou(boxes: Floats, others: Floats) -> Floats:
    """``(N, 4)`` and ``(M, 4)`` xyxy boxes to ``(N, M)`` IoU; 0 where both have no area."""
    width, height = (
        np.minimum(boxes[:, None, k + 2], others[None, :, k + 2]) - np.maximum(boxes[:, None, k], others[None, :, k])
        for k in (0, 1)
    )
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area, other_area = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, others))
    union = area[:, None] + other_area[None, :] - shared
    iou: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def box_diou(boxes: Floats, others: Floats) -> Floats:
    """As ``box_iou``, less the squared distance of the centres over the squared diagonal of the box around both.

    DIoU, 1911.08287 eq. 7: 1 for equal boxes, towards -1 for distant ones.
    """
    low = np.minimum(boxes[:, None, :2], others[None, :, :2])
    high = np.maximum(boxes[:, None, 2:], others[None, :, 2:])
    diagonal = np.square(high - low).sum(axis=2)
    centre, other_centre = ((b[:, :2] + b[:, 2:]) / 2 for b in (boxes, others))
    distance = np.square(centre[:, None] - other_centre[None]).sum(axis=2)
    penalty = distance / np.where(diagonal > 0, diagonal, 1)
    overlap: Floats = (box_iou(boxes, others) - penalty).astype(np.float32)
    return overlap


NMS_OVERLAPS: dict[Nms, Callable[[Floats, Floats], Floats]] = {"iou": box_iou, "diou": box_diou}


def non_maximum_suppression(
    boxes: Floats,
    scores: Floats,
    class_ids: NDArray[np.int64],
    iou_threshold: float,
    max_detections: int = 300,
    max_candidates: int = 3000,
    nms: Nms = "iou",
) -> NDArray[np.int64]:
    """Greedy NMS within each class.

    With ``nms="diou"`` the threshold bounds DIoU, 1911.08287 §4.3 and YOLOv4 §3.4: of boxes that overlap much, those
    with distant centres stay.

    Returns:
        Indices of the boxes that stay, best score first, at most ``max_detections``.
    """
    order = np.argsort(-scores, kind="stable")[:max_candidates]
    boxes, class_ids = boxes[order], class_ids[order]
    kept = np.zeros(0, np.int64)
    for start in range(0, len(order), NMS_BLOCK):
        block = np.arange(start, min(start + NMS_BLOCK, len(order)))
        if len(kept):
            too_near = NMS_OVERLAPS[nms](boxes[kept], boxes[block]) > iou_threshold
            block = block[~(too_near & (class_ids[kept, None] == class_ids[block])).any(axis=0)]
        too_near = NMS_OVERLAPS[nms](boxes[block], boxes[block]) > iou_threshold
        too_near &= class_ids[block, None] == class_ids[block]
        stays = np.ones(len(block), bool)
        for place in range(len(block)):
            if stays[place]:
                stays[place + 1 :] &= ~too_near[place, place + 1 :]
        kept = np.concatenate((kept, block[stays]))
        if len(kept) >= max_detections:
            break
    return order[kept[:max_detections]]
