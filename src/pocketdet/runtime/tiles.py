"""Large pictures in overlapping tiles, so that small objects are large enough for the network."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import Floats, Nms, box_iou, non_maximum_suppression
from pocketdet.core.detections import Detections

OVERLAP = 0.25  # of a tile's side; an object up to this size lies whole in at least one tile
CUT_MARGIN = 0.01  # of a tile's side; a box that ends so near to where the tile was cut may be a part of an object


class Tile(NamedTuple):
    """A part of a picture, in image pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left


def place_tiles(image_size: tuple[int, int], side: int) -> list[Tile]:
    """Square tiles over a whole picture, spread evenly, with at least ``OVERLAP`` of their side in common.

    Args:
        image_size: (height, width), in pixels.
        side: Of a tile, in pixels; where the picture is smaller, tiles are as well.

    Returns:
        Row by row; a single one, the whole picture, where that is no larger than a tile.
    """
    rows, columns = (_starts(length, side) for length in image_size)
    height, width = (min(side, length) for length in image_size)
    return [Tile(left, top, left + width, top + height) for top in rows for left in columns]


def _starts(length: int, side: int) -> list[int]:
    """Of the tiles along one side of the picture."""
    if length <= side:
        return [0]
    step = side - int(side * OVERLAP)
    number = 1 + -(-(length - side) // step)
    return [n * (length - side) // (number - 1) for n in range(number)]


def merge_tiles(parts: Sequence[tuple[Tile, Detections]], whole: Tile, iou_threshold: float, nms: Nms) -> Detections:
    """What was found in the tiles, and perhaps in the whole picture, as detections of the picture.

    Of boxes that overlap the best stays, as always. A box that ends where its tile was cut goes if most of it lies in a
    box that does not: the neighbouring tile, or the whole picture, shows the object whole.

    Args:
        parts: Each tile, in image pixels, and the detections in its own pixels.
        whole: The picture.
        iou_threshold: Boxes of one class that overlap more than this are one object.
        nms: What counts as overlap.
    """
    found = [detections for _, detections in parts]
    moved = [detections.boxes + np.array(tile[:2] * 2, np.float32) for tile, detections in parts]
    is_cut = np.concatenate([_is_cut(boxes, tile, whole) for boxes, (tile, _) in zip(moved, parts, strict=True)])
    boxes = np.concatenate(moved)
    scores = np.concatenate([detections.scores for detections in found])
    class_ids = np.concatenate([detections.class_ids for detections in found])

    complete, cut = np.flatnonzero(~is_cut), np.flatnonzero(is_cut)
    complete = complete[_best(boxes[complete], scores[complete], class_ids[complete], iou_threshold, nms)]
    covered = _inside(boxes[cut], boxes[complete]) > iou_threshold
    cut = cut[~(covered & (class_ids[cut, None] == class_ids[complete])).any(axis=1)]
    candidates = np.concatenate((complete, cut))
    keep = candidates[_best(boxes[candidates], scores[candidates], class_ids[candidates], iou_threshold, nms)]
    return Detections(boxes[keep], scores[keep], class_ids[keep], found[0].names, whole.size)


def _best(
    boxes: Floats, scores: Floats, class_ids: NDArray[np.int64], iou_threshold: float, nms: Nms
) -> NDArray[np.int64]:
    """NMS without a limit: a large picture may show many objects."""
    return non_maximum_suppression(boxes, scores, class_ids, iou_threshold, len(boxes), len(boxes), nms)


def _is_cut(boxes: Floats, tile: Tile, whole: Tile) -> NDArray[np.bool_]:
    """``(N,)`` whether a box, in image pixels, ends at a border of its tile that is none of the picture."""
    margin = CUT_MARGIN * max(tile.size)
    near = np.abs(boxes - np.array(tile, np.float32)) < margin
    cut: NDArray[np.bool_] = (near & (np.array(tile) != np.array(whole))).any(axis=1)
    return cut


def _inside(boxes: Floats, others: Floats) -> Floats:
    """``(N, M)`` how much of each box lies in each other one, 0 to 1."""
    area, other_area = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, others))
    iou = box_iou(boxes, others)
    shared = iou / (1 + iou) * (area[:, None] + other_area)
    inside: Floats = shared / np.where(area > 0, area, 1)[:, None]
    return inside
