"""From a plan to pixels, on a CPU: OpenCV on uint8 pictures."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from pocketdet.training.augment import Patch, Plan

Pixels = NDArray[np.uint8]


def render(plan: Plan, read: Callable[[int], Pixels], size: int, colour: tuple[int, int, int]) -> Pixels:
    """Draw a plan.

    Args:
        plan: What lies where.
        read: Gives a picture by its number, ``(H, W, 3)`` RGB.
        size: Height and width of the result.
        colour: RGB where no picture reaches.

    Returns:
        ``(size, size, 3)`` RGB.
    """
    first, *others = (_draw(layer, read, size, colour) for layer in plan.layers)
    image = first
    for other in others:
        image = np.asarray(cv2.addWeighted(image, plan.blend, other, 1 - plan.blend, 0), np.uint8)
    if plan.flips:
        image = image[:, ::-1]
    image = np.ascontiguousarray(np.rot90(image, plan.turns))
    return change_colour(image, plan.colour)


def _draw(patches: tuple[Patch, ...], read: Callable[[int], Pixels], size: int, colour: tuple[int, int, int]) -> Pixels:
    canvas = np.full((size, size, 3), colour, np.uint8)
    for patch in patches:
        at, (left, top, right, bottom) = patch.at, patch.window
        # Pixel centres: canvas x + 0.5 = (image x + 0.5) * scale + left.
        matrix = np.array(
            [
                [at.scale_x, 0, at.left - left + at.scale_x / 2 - 0.5],
                [0, at.scale_y, at.top - top + at.scale_y / 2 - 0.5],
            ]
        )
        canvas[top:bottom, left:right] = cv2.warpAffine(
            read(patch.number), matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR, borderValue=colour
        )
    return canvas


def change_colour(image: Pixels, gains: tuple[float, float, float]) -> Pixels:
    """Multiply hue, saturation and value (brightness); saturation and value end at their largest, hue goes round."""
    levels = np.arange(256)
    hue_gain, saturation_gain, value_gain = gains
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    tables = (
        (levels * hue_gain % 180).astype(np.uint8),
        np.clip(levels * saturation_gain, 0, 255).astype(np.uint8),
        np.clip(levels * value_gain, 0, 255).astype(np.uint8),
    )
    planes = [cv2.LUT(plane, table) for plane, table in zip((hue, saturation, value), tables, strict=True)]
    return np.asarray(cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2RGB), np.uint8)
