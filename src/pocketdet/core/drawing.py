"""Draws detections into their picture."""

import contextlib
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pocketdet.core.detections import Detections
from pocketdet.core.images import read_image
from pocketdet.errors import ImageError

Colour = tuple[int, int, int]

# Okabe and Ito's colours, which people with colour blindness can tell apart, and darker or lighter relatives.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (148, 103, 189),
    (170, 220, 140),
    (255, 157, 167),
)
WRITABLE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Pillow's own font ends with Latin; of these the first that a system has writes other names. (file, number in it)
FONTS = (
    ("NotoSansCJK-Regular.ttc", 2),
    ("NotoSansSC-Regular.otf", 0),
    ("wqy-microhei.ttc", 0),
    ("wqy-zenhei.ttc", 0),
    ("PingFang.ttc", 0),
    ("Hiragino Sans GB.ttc", 0),
    ("msyh.ttc", 0),
    ("simsun.ttc", 0),
    ("DejaVuSans.ttf", 0),
)
LAST_LATIN = "\u024f"
SMOOTHING = 4  # a label is drawn so many times larger and scaled down, for smooth corners


class Place(NamedTuple):
    """A label's rectangle, in image pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: "Place") -> bool:
        """Whether both have a pixel in common."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def class_colour(class_id: int) -> Colour:
    """The RGB colour of a class, the same in every picture."""
    return PALETTE[class_id % len(PALETTE)]


def draw(detections: Detections, image: NDArray[np.uint8], labels: Sequence[str] | None = None) -> NDArray[np.uint8]:
    """Draw boxes and labels into a copy of a picture.

    Args:
        detections: Boxes in pixels of this picture.
        image: ``(H, W, 3)`` RGB.
        labels: What to write on each box; by default class and score.

    Returns:
        ``(H, W, 3)`` RGB.
    """
    if labels is None:
        labels = [f"{name} {score:.0%}" for name, score in zip(detections.class_names, detections.scores, strict=True)]
    canvas = Image.fromarray(image).convert("RGB")
    pen = ImageDraw.Draw(canvas)
    line, text_size = line_and_text(canvas.size)
    worst_first = range(len(detections) - 1, -1, -1)
    for n in worst_first:
        _draw_box(pen, detections.boxes[n], class_colour(int(detections.class_ids[n])), line)
    taken: list[Place] = []
    for n, text in enumerate(labels):
        colour = class_colour(int(detections.class_ids[n]))
        label = make_label(text, colour, text_size)
        place = free_place(detections.boxes[n], label.size, canvas.size, taken)
        canvas.paste(label, place[:2], label)
        taken.append(place)
    return np.array(canvas, np.uint8)


def save_drawing(detections: Detections, path: str | Path) -> Path:
    """Write the picture with its boxes drawn in; missing folders are made.

    The picture is taken from ``detections.image`` or read again, at full size, from ``detections.source``.

    Returns:
        The file.

    Raises:
        ImageError: The suffix is of no format that can be written, the picture is not at hand, or writing failed.
    """
    image = detections.image
    if image is None:
        if not detections.source:
            raise ImageError("the detections came without their picture; predict with keep_image=True to draw them")
        image = read_image(detections.source, at_least=None).pixels
    return save_image(draw(detections, image), path)


def save_image(image: NDArray[np.uint8], path: str | Path) -> Path:
    """Write an ``(H, W, 3)`` RGB picture; missing folders are made.

    Raises:
        ImageError: The suffix is of no format that can be written, or writing failed.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE_SUFFIXES:
        raise ImageError(f"{path}: cannot write '{path.suffix}' pictures; use one of {', '.join(WRITABLE_SUFFIXES)}")
    options: dict[str, Any] = {"quality": 92} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, **options)
    except OSError as error:
        raise ImageError(f"{path}: the picture cannot be written: {error.strerror or error}") from error
    return path


def line_and_text(size: tuple[int, int]) -> tuple[int, int]:
    """Width of lines and height of letters, in pixels, for a picture of a (width, height)."""
    return max(2, round(min(size) / 180)), min(48, max(12, round(min(size) * 0.035)))


def _draw_box(pen: ImageDraw.ImageDraw, box: NDArray[np.float32], colour: Colour, line: int) -> None:
    left, top, right, bottom = (round(float(v)) for v in box)
    corners = (left, top, max(left, right - 1), max(top, bottom - 1))
    radius = min(2 * line, (corners[2] - left) // 2, (corners[3] - top) // 2)
    pen.rounded_rectangle(corners, radius, outline=colour, width=line)


@functools.lru_cache(maxsize=512)  # the frames of a video repeat them
def make_label(text: str, colour: Colour, text_size: int) -> Image.Image:
    """Text on a rounded ground, RGBA."""
    font = _font_for(text, text_size * SMOOTHING)
    left, _, right, _ = font.getbbox(text)
    margin = text_size * SMOOTHING // 3
    # The height is of the font, not of the text, so that all labels of a picture are alike.
    _, top, _, bottom = font.getbbox("Ag|")
    size = math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + margin
    ground = Image.new("RGBA", size, (*colour, 0))
    pen = ImageDraw.Draw(ground)
    pen.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), margin, fill=(*colour, 255))
    pen.text((margin - left, margin / 2 - top), text, font=font, fill=_readable_on(colour))
    return ground.resize((math.ceil(size[0] / SMOOTHING), math.ceil(size[1] / SMOOTHING)), Image.Resampling.BOX)


def _font_for(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    path, index = (None, 0) if text.isascii() or max(text) <= LAST_LATIN else _system_font()
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size, index)


@functools.cache
def _system_font() -> tuple[str | None, int]:
    """File and number of a font with more than Latin, if there is one; Pillow looks through the system's folders."""
    for name, index in FONTS:
        with contextlib.suppress(OSError):
            return str(ImageFont.truetype(name, index=index).path), index
    return None, 0


def _readable_on(colour: Colour) -> Colour:
    """Black or white, whichever has more contrast by WCAG's relative luminance."""
    linear = [(v / 255) ** 2.2 for v in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def free_place(box: NDArray[np.float32], size: tuple[int, int], limits: tuple[int, int], taken: list[Place]) -> Place:
    """Above the box, else inside its top, below it, or inside its bottom; always inside the picture.

    Args:
        box: xyxy, image pixels.
        size: (width, height) of the label, as Pillow has it.
        limits: (width, height) of the picture.
        taken: Places of other labels.
    """
    left, top, _, bottom = (round(float(v)) for v in box)
    left = max(0, min(left, limits[0] - size[0]))
    tops = [y for y in (top - size[1], top, bottom, bottom - size[1]) if 0 <= y <= limits[1] - size[1]]
    places = [Place(left, y, left + size[0], y + size[1]) for y in tops]
    fallback = Place(left, max(0, min(top, limits[1] - size[1])), left + size[0], top + size[1])
    free = (place for place in places if not any(place.overlaps(other) for other in taken))
    return next(free, places[0] if places else fallback)
