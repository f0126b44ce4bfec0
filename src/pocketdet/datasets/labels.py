"""What the three readers hand over: class names and boxes as their files have them, in xyxy image pixels."""

from pathlib import Path
from typing import NamedTuple, Protocol

from pocketdet.core.images import IMAGE_SUFFIXES, image_size
from pocketdet.errors import AnnotationError, ImageError


class Label(NamedTuple):
    """One labelled object."""

    class_name: str
    box: tuple[float, float, float, float]  # xyxy image pixels of the upright picture, not clipped
    difficult: bool
    where: str  # file, and line or key, for messages


class LabelledPicture(NamedTuple):
    """One picture; no labels make it a negative."""

    path: Path
    size: tuple[int, int]  # (height, width), upright
    labels: list[Label]


class Split(NamedTuple):
    """One split of a data set."""

    pictures: list[LabelledPicture]
    class_names: tuple[str, ...]  # all that the labels know, in the order of their ids
    skipped: list[str]  # what was left out, a line each


class Layout(Protocol):
    """A data set on disk in one of the three layouts."""

    def split_names(self) -> list[str]:
        """The splits, without reading labels."""

    def split_sizes(self) -> dict[str, int]:
        """The splits and how many pictures each lists."""

    def read(self, split: str) -> Split:
        """Read one of ``split_names``."""


def size_or_complaint(path: Path, skipped: list[str]) -> tuple[int, int] | None:
    """The upright (height, width) of a picture; one that cannot be read is named in ``skipped``."""
    try:
        return image_size(path)
    except ImageError as error:
        skipped.append(str(error))
        return None


def read_lines(path: Path) -> list[str]:
    """The lines of a list or label file."""
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not text in UTF-8 ({error.reason}); save it as UTF-8") from error


def find_pictures(folder: Path) -> list[Path]:
    """All pictures of a folder and its subfolders, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
