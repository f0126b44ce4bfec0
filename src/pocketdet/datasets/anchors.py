"""How well anchors fit the objects of a data set."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.metadata import Anchors

POOR = 0.25  # IoU with the best anchor below which a box's shape is hardly covered


class AnchorFit(NamedTuple):
    """How the best anchor's shape overlaps each box's; all 0 to 1."""

    mean_iou: float
    share_poor: float  # of the boxes, with an IoU below ``POOR``
    share_by_level: tuple[float, ...]  # of the boxes, by the level of their best anchor, P3 first


def shape_iou(sizes: NDArray[np.float32], anchors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The IoU that boxes and anchors would have about one centre.

    Args:
        sizes: ``(T, 2)`` widths and heights, input pixels.
        anchors: ``(A, 2)`` widths and heights, input pixels.

    Returns:
        ``(T, A)``, 0 to 1.
    """
    shared = np.minimum(sizes[:, None], anchors[None]).prod(axis=2)
    overlap: NDArray[np.float32] = shared / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1)[None] - shared)
    return overlap


def measure_fit(sizes: NDArray[np.float32], anchors: Anchors) -> AnchorFit | None:
    """Compare all boxes with all anchors; ``None`` without boxes.

    Args:
        sizes: ``(T, 2)`` widths and heights of boxes with an area, input pixels.
        anchors: Per level, as many on each.
    """
    if not len(sizes):
        return None
    overlap = shape_iou(sizes, np.array(anchors, np.float32).reshape(-1, 2))
    best, level = overlap.max(axis=1), overlap.argmax(axis=1) // len(anchors[0])
    shares = np.bincount(level, minlength=len(anchors)) / len(sizes)
    return AnchorFit(float(best.mean()), float((best < POOR).mean()), tuple(shares.tolist()))
