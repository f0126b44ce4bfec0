"""What a training picture goes through: mosaic, scale and shift, flip, colour. Numpy and OpenCV, on uint8 pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float32]

SCALE = (0.6, 1.5)  # of the size at which the picture just fits
ASPECT = 1.2  # at most so much wider or taller
COLOUR = (0.015, 0.6, 0.4)  # hue, saturation, value: largest relative change
MIN_VISIBLE = 0.25  # a box of which less is left is no target
MIN_SIDE = 2.0  # input pixels


class Sample(NamedTuple):
    """A picture and its targets."""

    image: Pixels  # (H, W, 3) RGB
    boxes: Boxes  # (T, 4) xyxy, pixels of this picture
    class_ids: NDArray[np.int64]  # (T,)


class Placement(NamedTuple):
    """Where a picture goes on the canvas: a corner of it, and its scale in x and y."""

    left: float
    top: float
    scale_x: float
    scale_y: float


def place_one(sample: Sample, size: int, colour: tuple[int, int, int], rng: np.random.Generator) -> Sample:
    """Scale, stretch and shift a picture on a canvas of ``size`` x ``size``."""
    scale_x, scale_y = _random_scale(sample.image, size, rng)
    height, width = sample.image.shape[:2]
    left = rng.uniform(*sorted((0.0, size - width * scale_x)))
    top = rng.uniform(*sorted((0.0, size - height * scale_y)))
    canvas = np.full((size, size, 3), colour, np.uint8)
    boxes, class_ids = _paste(sample, canvas, (0, 0, size, size), Placement(left, top, scale_x, scale_y))
    return Sample(canvas, boxes, class_ids)


def mosaic(samples: Sequence[Sample], size: int, colour: tuple[int, int, int], rng: np.random.Generator) -> Sample:
    """Four pictures around one point, YOLOv4 §3.3; each is cut where its quarter ends.

    Args:
        samples: Four.
        size: Height and width of the result.
        colour: RGB where no picture reaches.
        rng: Source of every random number.
    """
    centre_x, centre_y = (int(rng.uniform(0.3, 0.7) * size) for _ in range(2))
    canvas = np.full((size, size, 3), colour, np.uint8)
    parts = []
    for number, sample in enumerate(samples):
        is_right, is_lower = number % 2, number // 2
        scale_x, scale_y = (0.75 * scale for scale in _random_scale(sample.image, size, rng))
        height, width = sample.image.shape[:2]
        left = centre_x if is_right else centre_x - width * scale_x
        top = centre_y if is_lower else centre_y - height * scale_y
        window = (
            centre_x if is_right else 0,
            centre_y if is_lower else 0,
            size if is_right else centre_x,
            size if is_lower else centre_y,
        )
        parts.append(_paste(sample, canvas, window, Placement(left, top, scale_x, scale_y)))
    boxes, class_ids = (np.concatenate([part[k] for part in parts]) for k in range(2))
    return Sample(canvas, boxes, class_ids)


def flip(sample: Sample) -> Sample:
    """Mirror left and right."""
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = sample.image.shape[1] - sample.boxes[:, [2, 0]]
    return sample._replace(image=np.ascontiguousarray(sample.image[:, ::-1]), boxes=boxes)


def change_colour(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Another hue, saturation and brightness."""
    hue_gain, saturation_gain, value_gain = 1 + rng.uniform(-1, 1, 3) * COLOUR
    levels = np.arange(256)
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    tables = (
        (levels * hue_gain % 180).astype(np.uint8),
        np.clip(levels * saturation_gain, 0, 255).astype(np.uint8),
        np.clip(levels * value_gain, 0, 255).astype(np.uint8),
    )
    planes = [cv2.LUT(plane, table) for plane, table in zip((hue, saturation, value), tables, strict=True)]
    return np.asarray(cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2RGB), np.uint8)


def _random_scale(image: Pixels, size: int, rng: np.random.Generator) -> tuple[float, float]:
    fit = size / max(image.shape[:2])
    scale = fit * np.exp(rng.uniform(*np.log(SCALE)))
    stretch = np.exp(rng.uniform(-1, 1) * np.log(ASPECT) / 2)
    return float(scale * stretch), float(scale / stretch)


def _paste(
    sample: Sample, canvas: Pixels, window: tuple[int, int, int, int], at: Placement
) -> tuple[Boxes, NDArray[np.int64]]:
    """Draw the picture into a window (left, top, right, bottom) of the canvas; return the targets that stay visible."""
    left, top, right, bottom = window
    # Pixel centres: canvas x + 0.5 = (image x + 0.5) * scale + left.
    matrix = np.array(
        [
            [at.scale_x, 0, at.left - left + at.scale_x / 2 - 0.5],
            [0, at.scale_y, at.top - top + at.scale_y / 2 - 0.5],
        ]
    )
    view = canvas[top:bottom, left:right]
    border = tuple(int(value) for value in canvas[top, left])
    view[:] = cv2.warpAffine(
        sample.image, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR, borderValue=border
    )
    moved = sample.boxes * np.array([at.scale_x, at.scale_y] * 2) + np.array([at.left, at.top] * 2)
    clipped = np.clip(moved, (left, top, left, top), (right, bottom, right, bottom))
    before, after = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (moved, clipped))
    is_seen = (after >= MIN_VISIBLE * before) & (
        (clipped[:, 2:] - clipped[:, :2]).min(axis=1, initial=np.inf) >= MIN_SIDE
    )
    return clipped[is_seen].astype(np.float32), sample.class_ids[is_seen]
