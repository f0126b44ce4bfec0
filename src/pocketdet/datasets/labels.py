"""What the three readers hand over: class names and boxes as their files have them, in xyxy image pixels."""

import os
from pathlib import Path
from typing import NamedTuple, Protocol

from pocketdet.core.images import IMAGE_SUFFIXES, image_size
from pocketdet.datasets.findings import Journal, Place
from pocketdet.errors import AnnotationError, ImageError


class Label(NamedTuple):
    """One labelled object."""

    class_name: str
    box: tuple[float, float, float, float]  # xyxy image pixels of the upright picture, not clipped
    difficult: bool
    where: Place


class LabelledPicture(NamedTuple):
    """One picture; no labels make it a negative."""

    path: Path
    size: tuple[int, int]  # (height, width), upright
    labels: list[Label]
    source: Path  # the file with its labels, which need not exist
    listed_size: tuple[int, int] | None = None  # (height, width) that the labels claim


class Split(NamedTuple):
    """One split of a data set."""

    pictures: list[LabelledPicture]
    class_names: tuple[str, ...]  # all that the labels know, in the order of their ids


class Layout(Protocol):
    """A data set on disk in one of the three layouts."""

    def split_names(self) -> list[str]:
        """The splits, without reading labels."""

    def split_sizes(self) -> dict[str, int]:
        """The splits and how many pictures each lists."""

    def source(self, split: str) -> Path:
        """What names the classes of a split, for messages: a file, or the folder."""

    def read(self, split: str, journal: Journal) -> Split:
        """Read one of ``split_names``; what is left out is noted."""

    def note_strays(self, journal: Journal) -> None:
        """Note pictures that no split lists or that lack labels; reading splits does not need it."""


def size_or_complaint(path: Path, journal: Journal) -> tuple[int, int] | None:
    """The upright (height, width) of a picture; one that cannot be read is noted."""
    try:
        return image_size(path)
    except ImageError as error:
        kind = "picture" if os.path.exists(path) else "no-picture"
        journal.note(kind, path, str(error).removeprefix(str(path)))
        return None


def note_no_area(class_name: str, box: tuple[float, float, float, float], where: Place, journal: Journal) -> None:
    """Note a box, xyxy as its file has it, that is nothing wide or high or less."""
    left, top, right, bottom = box
    if right < left or bottom < top:
        text = f"its box has no area, for its corners are swapped ({left:g}, {top:g}, {right:g}, {bottom:g})"
        journal.note("swapped-corners", where, f" ({class_name}): {text}")
    else:
        journal.note("no-area", where, f" ({class_name}): its box has no area")


def is_picture(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def read_lines(path: Path) -> list[str]:
    """The lines of a list or label file."""
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not text in UTF-8 ({error.reason}); save it as UTF-8") from error


def find_pictures(folder: Path) -> list[Path]:
    """All pictures of a folder and its subfolders, sorted."""
    return sorted(path for path in folder.rglob("*") if is_picture(path))
