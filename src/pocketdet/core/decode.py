"""The one decoder and the one NMS, in float32 numpy: for training's validation and for every file format."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.metadata import ModelMetadata

Floats = NDArray[np.float32]
Nms = Literal["iou", "diou"]


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
    parts = [
        _decode_level(level, index, np.asarray(metadata.anchors[n], np.float32), stride, scale_xy, score_threshold)
        for n, (level, stride, scale_xy) in enumerate(zip(levels, metadata.strides, metadata.scale_xy, strict=True))
    ]
    boxes, scores, class_ids = (np.concatenate([part[k] for part in parts]) for k in range(3))
    keep = non_maximum_suppression(boxes, scores, class_ids, iou_threshold, max_detections, nms=nms)
    return Decoded(boxes[keep], scores[keep], class_ids[keep])


def _decode_level(
    level: LevelLogits, index: int, anchors: Floats, stride: int, scale_xy: float, score_threshold: float
) -> Decoded:
    objectness = level.objectness[index]  # (A, H, W)
    floor = _logit(score_threshold)  # a score never exceeds its objectness
    anchor, row, column = np.nonzero(objectness > floor)
    num_anchors, height, width = objectness.shape
    boxes = level.boxes[index].reshape(num_anchors, 4, height, width)[anchor, :, row, column]  # (M, 4)
    classes = level.classes[index].reshape(num_anchors, -1, height, width)[anchor, :, row, column]  # (M, K)
    scores = sigmoid(objectness[anchor, row, column])[:, None] * sigmoid(classes)
    place, class_ids = np.nonzero(scores > score_threshold)
    cell = np.stack((column, row), axis=1)[place].astype(np.float32)
    # Grid sensitivity, YOLOv4 §3.4: the centre may reach the border of its cell.
    centre = (sigmoid(boxes[place, :2]) * scale_xy - (scale_xy - 1) / 2 + cell) * stride
    size = np.exp(np.clip(boxes[place, 2:], -20, 20)) * anchors[anchor[place]]
    corners = np.concatenate((centre - size / 2, centre + size / 2), axis=1)
    return Decoded(corners.astype(np.float32), scores[place, class_ids].astype(np.float32), class_ids.astype(np.int64))


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
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area, other_area = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, others))
    union = area[:, None] + other_area[None, :] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0).astype(np.float32)


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
    keep: list[int] = []
    while order.size and len(keep) < max_detections:
        best, rest = order[0], order[1:]
        keep.append(int(best))
        overlap = NMS_OVERLAPS[nms](boxes[best][None], boxes[rest])[0]
        order = rest[(overlap <= iou_threshold) | (class_ids[rest] != class_ids[best])]
    return np.array(keep, np.int64)
