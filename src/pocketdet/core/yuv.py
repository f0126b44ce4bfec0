"""Draws into the planes of a video frame, so that it need not become RGB and back (a third of the time of a frame).

4:2:0 as decoders give and encoders take it: luma of every pixel, both colour differences of every second one in both
directions. What is drawn lies on even pixels.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pocketdet.core.detections import Detections
from pocketdet.core.drawing import Colour, Place, class_colour, free_place, line_and_text, make_label

Pixels = NDArray[np.uint8]
Point = tuple[float, float]

# Weights of red and blue in the luma: ITU-R BT.601 and BT.709.
_BT601, _BT709 = (0.299, 0.114), (0.2126, 0.0722)


class Planes(NamedTuple):
    """A frame that can be drawn into.

    Args:
        luma: ``(H, W)``, 16 to 235; both sides are even.
        blue: ``(H / 2, W / 2)``, difference to the luma, 128 is grey.
        red: As ``blue``.
        is_bt709: Whether its colours are those of BT.709 (high definition) instead of BT.601.
    """

    luma: Pixels
    blue: Pixels
    red: Pixels
    is_bt709: bool

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.luma.shape
        return height, width


def draw_boxes(
    planes: Planes, detections: Detections, labels: Sequence[str] | None = None, colours: Sequence[Colour] | None = None
) -> None:
    """Draw boxes and labels, as ``core.drawing.draw`` does in pictures.

    Args:
        planes: Are drawn into.
        detections: Boxes in pixels of this frame.
        labels: What to write on each box; by default class and score.
        colours: Of each box; by default the class's.
    """
    if labels is None:
        labels = [f"{name} {score:.0%}" for name, score in zip(detections.class_names, detections.scores, strict=True)]
    if colours is None:
        colours = [class_colour(int(class_id)) for class_id in detections.class_ids]
    height, width = planes.size
    line, text_size = line_and_text((width, height))
    for n in reversed(range(len(detections))):  # worst first
        _outline(planes, detections.boxes[n], line + line % 2, colours[n])
    taken: list[Place] = []
    for n, text in enumerate(labels):
        stamp = _label_stamp(text, colours[n], text_size, planes.is_bt709)
        across, down = stamp.luma.shape[::-1]
        place = free_place(detections.boxes[n], (across, down), (width, height), taken)
        _put(planes, stamp, place.left, place.top)
        taken.append(place)


def draw_text(planes: Planes, text: str, left: float, top: float, colour: Colour) -> None:
    """A label whose upper left corner is at a point, as far as it lies within the frame."""
    _, text_size = line_and_text(planes.size[::-1])
    _put(planes, _label_stamp(text, colour, text_size, planes.is_bt709), round(left), round(top))


def draw_path(planes: Planes, points: Sequence[Point], colour: Colour, width: int) -> None:
    """Lines from point to point.

    Args:
        planes: Are drawn into.
        points: (x, y) in image pixels.
        colour: RGB.
        width: In pixels.
    """
    limits = [(side + 2 * width) for side in planes.size[::-1]]
    inside = [tuple(min(max(v, -width), limit) for v, limit in zip(p, limits, strict=True)) for p in points]
    xs, ys = zip(*inside, strict=True)
    left, top = int(min(xs)) - width, int(min(ys)) - width
    left, top = left - left % 2, top - top % 2
    size = int(max(xs)) + width + 2 - left, int(max(ys)) + width + 2 - top
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).line([(x - left, y - top) for x, y in inside], fill=255, width=width, joint="curve")
    _put(planes, _stamp(np.array(mask), np.broadcast_to(np.array(colour, np.uint8), (*size[::-1], 3)), planes.is_bt709),
         left, top)  # fmt: skip


class _Stamp(NamedTuple):
    """A small picture with its opacity, in the frame's colours; even sides."""

    luma: Pixels
    blue: Pixels
    red: Pixels
    alpha: Pixels  # of the luma
    half_alpha: Pixels  # of the differences


@functools.lru_cache(maxsize=512)
def _label_stamp(text: str, colour: Colour, text_size: int, is_bt709: bool) -> _Stamp:
    label = np.asarray(make_label(text, colour, text_size))
    return _stamp(label[..., 3], label[..., :3], is_bt709)


def _stamp(alpha: Pixels, rgb: Pixels, is_bt709: bool) -> _Stamp:
    padding = [(0, side % 2) for side in alpha.shape]
    alpha, rgb = np.pad(alpha, padding), np.pad(rgb, [*padding, (0, 0)], mode="edge")
    luma, blue, red = _to_yuv(rgb, is_bt709)
    return _Stamp(luma, _halve(blue), _halve(red), alpha, _halve(alpha))


def _halve(plane: Pixels) -> Pixels:
    height, width = plane.shape
    halved: Pixels = plane.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)).round().astype(np.uint8)
    return halved


def _put(planes: Planes, stamp: _Stamp, left: int, top: int) -> None:
    left, top = left - left % 2, top - top % 2
    _blend(planes.luma, stamp.luma, stamp.alpha, left, top)
    _blend(planes.blue, stamp.blue, stamp.half_alpha, left // 2, top // 2)
    _blend(planes.red, stamp.red, stamp.half_alpha, left // 2, top // 2)


def _blend(plane: Pixels, values: Pixels, alpha: Pixels, left: int, top: int) -> None:
    rows = slice(max(0, -top), plane.shape[0] - top)
    columns = slice(max(0, -left), plane.shape[1] - left)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return
    values, opacity = values[rows, columns], alpha[rows, columns].astype(np.uint16)
    part = plane[max(0, top) : max(0, top) + values.shape[0], max(0, left) : max(0, left) + values.shape[1]]
    part[:] = (part * (255 - opacity) + values * opacity + 127) // 255


def _outline(planes: Planes, box: NDArray[np.float32], line: int, colour: Colour) -> None:
    height, width = planes.size
    left, top, right, bottom = (2 * round(float(v) / 2) for v in box)
    left, right = max(0, left), min(width, max(right, left + line))
    top, bottom = max(0, top), min(height, max(bottom, top + line))
    values = (int(v.item()) for v in _to_yuv(np.array(colour, np.uint8).reshape(1, 1, 3), planes.is_bt709))
    for plane, value, step in zip(planes[:3], values, (1, 2, 2), strict=True):
        x0, y0, x1, y1, w = (v // step for v in (left, top, right, bottom, line))
        plane[y0 : y0 + w, x0:x1] = value
        plane[max(y0, y1 - w) : y1, x0:x1] = value
        plane[y0:y1, x0 : x0 + w] = value
        plane[y0:y1, max(x0, x1 - w) : x1] = value


def _to_yuv(rgb: Pixels, is_bt709: bool) -> tuple[Pixels, Pixels, Pixels]:
    """ITU-R BT.601 or BT.709, limited range."""
    red_weight, blue_weight = _BT709 if is_bt709 else _BT601
    red, green, blue = (rgb[..., n] / 255 for n in range(3))
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    differences = (112 * (part - luma) / (1 - weight) for part, weight in ((blue, blue_weight), (red, red_weight)))
    first, second = (np.rint(128 + difference).astype(np.uint8) for difference in differences)
    return np.rint(16 + 219 * luma).astype(np.uint8), first, second
