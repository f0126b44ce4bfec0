"""How well anchors fit the objects of a data set, and anchors that are made for them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.metadata import Anchors

POOR = 0.25  # IoU with the best anchor below which a box's shape is hardly covered
RECALL_AT = (0.213, 0.5)  # shape IoUs: where YOLOv4 gives a box to an anchor, and a good fit

_RESTARTS = 8
_ROUNDS = 100  # of moving the centres, at most
_ENOUGH_BOXES = 10_000  # more hardly move the centres; of more, so many are drawn
_SEED = 0

Floats = NDArray[np.float32]


class AnchorFit(NamedTuple):
    """How the best anchor's shape overlaps each box's; all 0 to 1."""

    mean_iou: float
    share_poor: float  # of the boxes, with an IoU below ``POOR``
    share_by_level: tuple[float, ...]  # of the boxes, by the level of their best anchor, P3 first
    recall: tuple[float, ...]  # share of the boxes with an IoU above each of ``RECALL_AT``


class OwnAnchors(NamedTuple):
    """Anchors made for a set of boxes, and how they fit these."""

    anchors: Anchors
    fit: AnchorFit


def shape_iou(sizes: Floats, anchors: Floats) -> Floats:
    """The IoU that boxes and anchors would have about one centre.

    Args:
        sizes: ``(T, 2)`` widths and heights, input pixels.
        anchors: ``(A, 2)`` widths and heights, input pixels.

    Returns:
        ``(T, A)``, 0 to 1.
    """
    shared = np.minimum(sizes[:, :1], anchors[:, 0]) * np.minimum(sizes[:, 1:], anchors[:, 1])
    overlap: Floats = shared / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1) - shared)
    return overlap


def measure_fit(sizes: Floats, anchors: Anchors) -> AnchorFit | None:
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
    recall = tuple(float((best > threshold).mean()) for threshold in RECALL_AT)
    return AnchorFit(float(best.mean()), float((best < POOR).mean()), tuple(shares.tolist()), recall)


def fit_anchors(sizes: Floats, seed: int = _SEED, levels: int = 3, per_level: int = 3) -> OwnAnchors | None:
    """Anchors by k-means on 1 - IoU, YOLOv2 (1612.08242) §2, the smallest of them for P3.

    A centre is the mean width and height of its boxes. That need not lower the distance, so that the best centres of
    all rounds and restarts are kept. Centres begin at boxes, each drawn by its distance to those before it.

    Args:
        sizes: ``(T, 2)`` widths and heights of boxes with an area, input pixels.
        seed: The same boxes and seed give the same anchors.
        levels: Of the network.
        per_level: Anchors a level.

    Returns:
        ``None`` with fewer different sizes than anchors.
    """
    count = levels * per_level
    if len(np.unique(sizes, axis=0)) < count:
        return None
    rng = np.random.default_rng(seed)
    drawn = sizes if len(sizes) <= _ENOUGH_BOXES else rng.choice(sizes, _ENOUGH_BOXES, replace=False)
    runs = [_move_centres(drawn, _draw_centres(drawn, count, rng)) for _ in range(_RESTARTS)]
    _, centres = max(runs, key=lambda run: run[0])
    in_order = np.round(centres[np.argsort(centres.prod(axis=1))].astype(float), 1)
    anchors: Anchors = tuple(
        tuple((float(width), float(height)) for width, height in level)
        for level in in_order.reshape(levels, per_level, 2)
    )
    fit = measure_fit(sizes, anchors)
    assert fit is not None
    return OwnAnchors(anchors, fit)


def _draw_centres(sizes: Floats, count: int, rng: np.random.Generator) -> Floats:
    """``(count, 2)`` boxes: k-means++ (Arthur and Vassilvitskii 2007), with 1 - IoU as the squared distance."""
    centres: Floats = sizes[rng.integers(len(sizes))][None]
    while len(centres) < count:
        distance = 1 - shape_iou(sizes, centres).max(axis=1).astype(float)
        distance = distance.clip(min=1e-9)
        centres = np.concatenate((centres, sizes[rng.choice(len(sizes), p=distance / distance.sum())][None]))
    return centres


def _move_centres(sizes: Floats, centres: Floats) -> tuple[float, Floats]:
    """The best mean IoU of box and centre that k-means meets, and its centres."""
    best, nearest = (-1.0, centres), np.zeros(0)
    for _ in range(_ROUNDS):
        overlap = shape_iou(sizes, centres)
        fit, last, nearest = float(overlap.max(axis=1).mean()), nearest, overlap.argmax(axis=1)
        if fit > best[0]:
            best = fit, centres
        if np.array_equal(nearest, last):
            break
        members = [sizes[nearest == number] for number in range(len(centres))]
        centres = np.stack([own.mean(axis=0) if len(own) else old for own, old in zip(members, centres, strict=True)])
    return best


def comparison_lines(default: AnchorFit, own: OwnAnchors) -> tuple[str, ...]:
    """How YOLOv4's anchors and own ones fit the same boxes, for people."""
    rows = (("YOLOv4's", default), ("by k-means", own.fit))
    recalls = [", ".join(f"{r:.1%} above {at}" for r, at in zip(fit.recall, RECALL_AT, strict=True)) for _, fit in rows]
    verdict = "better" if own.fit.mean_iou > default.mean_iou else "no better"
    listed = " ".join(f"{width:g},{height:g}" for level in own.anchors for width, height in level)
    return (
        *(f"  {name:10}  mean IoU {fit.mean_iou:.3f}; {r}" for (name, fit), r in zip(rows, recalls, strict=True)),
        f"  by k-means: {listed}",
        f"  k-means fits {verdict} than YOLOv4's; that alone does not make a better detector: own anchors can hurt,",
        "  because they may leave a level few objects, and a head of start weights was trained with other ones",
    )
