"""The one decoder, the one NMS and its vote, in float32 numpy: for training's validation and for every file format."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.metadata import ModelMetadata

Floats = NDArray[np.float32]
Nms = Literal["iou", "diou"]

MAX_CANDIDATES = 3000  # the best of a picture; an untrained network finds something in every cell
NMS_BLOCK = 64  # boxes that are compared with each other at once
VOTE_OVERLAP = 0.5  # with less, as in 1505.01749, a box has no vote
VOTE_RAMP = 0.2  # so much more, and it has its whole vote; in between a part, that small errors make no leap
VOTE_SHARE = 0.25  # of a score; boxes of less have no vote, so that no vote is lost to the score threshold
MIN_VOTE = 1e-12  # its square is a float32, not 0


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

    A pair of a box and a class is kept where objectness x class probability passes the threshold. What NMS suppresses
    has a vote on the box that stays: see ``vote``.

    Args:
        levels: P3, P4, P5 of the whole batch.
        index: Which picture of the batch.
        metadata: Anchors, strides and grid sensitivity.
        score_threshold: 0 to 1.
        iou_threshold: Boxes of one class that overlap more than this are one object.
        max_detections: At most so many, best first.
        nms: What counts as overlap.
    """
    least = VOTE_SHARE * score_threshold
    floor = _logit(least)  # a score exceeds neither its objectness nor its class probability
    constants = zip(levels, metadata.anchors, metadata.strides, metadata.scale_xy, strict=True)
    found = [_decode_level(floor, index, *of_level) for of_level in constants]
    all_boxes, objectness, classes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    place, class_ids = np.nonzero(classes > floor)
    scores = objectness[place] * sigmoid(classes[place, class_ids])
    good = np.flatnonzero(scores > least)
    candidates = Decoded(all_boxes[place[good]], scores[good], class_ids[good])
    return _suppress(candidates, score_threshold, iou_threshold, max_detections, nms)


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
    place, class_ids = np.nonzero(cells[:, 4:] > VOTE_SHARE * score_threshold)
    candidates = Decoded(cells[place, :4], cells[place, 4 + class_ids], class_ids)
    return _suppress(candidates, score_threshold, iou_threshold, max_detections, nms)


def _suppress(
    candidates: Decoded, score_threshold: float, iou_threshold: float, max_detections: int, nms: Nms
) -> Decoded:
    """One box an object, best score first, and where it is by the vote of all that were found there."""
    best = np.argsort(-candidates.scores, kind="stable")[:MAX_CANDIDATES]
    boxes, scores, class_ids = candidates.boxes[best], candidates.scores[best], candidates.class_ids[best]
    good = slice(np.count_nonzero(scores > score_threshold))
    keep = non_maximum_suppression(boxes[good], scores[good], class_ids[good], iou_threshold, max_detections, nms=nms)
    voted = vote(Decoded(boxes, scores, class_ids), keep, iou_threshold, nms)
    return Decoded(voted, scores[keep], class_ids[keep])


def _decode_level(
    floor: float,
    index: int,
    level: LevelLogits,
    anchors: Sequence[tuple[float, float]],
    stride: int,
    scale_xy: float,
) -> tuple[Floats, Floats, Floats]:
    """The cells and anchors of one level with an objectness logit over the floor.

    Returns:
        ``(M, 4)`` boxes, xyxy in input pixels; ``(M,)`` objectness, a probability; ``(M, K)`` class logits.
    """
    num_anchors, height, width = level.objectness.shape[1:]
    objectness = level.objectness[index].ravel()
    found = np.flatnonzero(objectness > floor)
    classes = level.classes[index].reshape(num_anchors, -1, height * width)
    if not len(found):  # of most pictures true for one level or two
        return np.zeros((0, 4), np.float32), objectness[found], classes[found, :, found]
    anchor, cell = np.divmod(found, height * width)
    class_logits = classes[anchor, :, cell]
    raw = level.boxes[index].reshape(num_anchors, 4, -1)[anchor, :, cell]
    corner = np.empty((len(found), 2), np.float32)
    np.divmod(cell, width, corner[:, 1], corner[:, 0], casting="unsafe")  # row and column
    # Grid sensitivity, YOLOv4 §3.4: the centre may reach the border of its cell.
    centre = (sigmoid(raw[:, :2]) * scale_xy - (scale_xy - 1) / 2 + corner) * stride
    half = np.exp(np.minimum(np.maximum(raw[:, 2:], -20), 20)) * np.array(anchors, np.float32)[anchor] / 2
    return np.concatenate((centre - half, centre + half), axis=1), sigmoid(objectness[found]), class_logits


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    probability: Floats = np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))
    return probability


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.log(probability / (1 - probability)) if probability < 1 else math.inf


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
    max_candidates: int = MAX_CANDIDATES,
    nms: Nms = "iou",
) -> NDArray[np.int64]:
    """Greedy NMS within each class.

    With ``nms="diou"`` the threshold bounds DIoU, 1911.08287 §4.3 and YOLOv4 §3.4: of boxes that overlap much, those
    with distant centres stay.

    Returns:
        Indices of the boxes that stay, best score first, at most ``max_detections``.
    """
    order = np.argsort(-scores, kind="stable")[:max_candidates]
    if len(order) < 2:
        return order[:max_detections]
    boxes, class_ids = boxes[order], class_ids[order]
    kept = np.zeros(0, np.int64)
    for start in range(0, len(order), NMS_BLOCK):
        block = np.arange(start, min(start + NMS_BLOCK, len(order)))
        if len(kept):
            too_near = NMS_OVERLAPS[nms](boxes[kept], boxes[block]) > iou_threshold
            block = block[~(too_near & (class_ids[kept, None] == class_ids[block])).any(axis=0)]
        too_near = NMS_OVERLAPS[nms](boxes[block], boxes[block]) > iou_threshold
        too_near &= class_ids[block, None] == class_ids[block]
        np.fill_diagonal(too_near, False)
        stays = np.ones(len(block), bool)
        for place in np.flatnonzero(too_near.any(axis=1)):
            if stays[place]:
                stays[place + 1 :] &= ~too_near[place, place + 1 :]
        kept = np.concatenate((kept, block[stays]))
        if len(kept) >= max_detections:
            break
    return order[kept[:max_detections]]


def vote(candidates: Decoded, keep: NDArray[np.int64], iou_threshold: float, nms: Nms = "iou") -> Floats:
    """Box voting, 1505.01749: the mean of a box that NMS keeps and of those of its class that it suppresses.

    A box weighs as much as the square of its score, less what one of ``VOTE_SHARE`` would weigh, and less the less it
    overlaps. The errors of neighbouring cells and anchors cancel in part.

    Args:
        candidates: What NMS was given, and boxes of scores down to ``VOTE_SHARE`` of its threshold.
        keep: What it returned.
        iou_threshold: Of the NMS; boxes that overlap by less than it, or than ``VOTE_OVERLAP``, have no vote.
        nms: What counts as overlap.

    Returns:
        ``(len(keep), 4)``
    """
    boxes, scores, class_ids = candidates
    least = max(iou_threshold, VOTE_OVERLAP)
    if least >= 1 or len(keep) == len(boxes):
        return boxes[keep]
    squares = np.square(np.maximum(scores, MIN_VOTE))
    result, kept_ids = boxes[keep], class_ids[keep]
    for class_id in set(kept_ids.tolist()):  # few numpy calls: each costs more than the few boxes of a picture
        places, voters = np.flatnonzero(kept_ids == class_id), np.flatnonzero(class_ids == class_id)
        mine, others = result[places], boxes[voters]
        overlaps = NMS_OVERLAPS[nms](mine, others)
        weights = np.minimum(np.maximum(overlaps - least, 0), VOTE_RAMP)
        weights *= np.maximum(squares[voters] / squares[keep[places], None] - VOTE_SHARE**2, 0)
        total = weights.sum(axis=1, keepdims=True)  # 0 for a box without area, which overlaps nothing
        result[places] = np.divide(weights @ others, total, out=mine, where=total > 0)
    return result
