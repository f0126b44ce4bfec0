"""From what a person names to pictures: a path, a folder, a pattern or several of them."""

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from pocketdet.core.images import IMAGE_SUFFIXES
from pocketdet.errors import ImageError


def is_single_picture(source: str | Path) -> bool:
    """Whether a source names one picture, not a folder or a pattern of several."""
    path = Path(source)
    return path.is_file() or not (path.is_dir() or glob.has_magic(str(source)))


def list_pictures(source: str | Path) -> list[Path]:
    """The pictures that a source names, in natural order (2.jpg before 10.jpg).

    A file is taken whatever its suffix, a folder gives its own pictures (not those of its subfolders) and a
    pattern such as ``photos/**/*.jpg`` the pictures that match.

    Raises:
        ImageError: Nothing is there, or no picture.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = _pictures_among(path.iterdir())
        what = "the folder has no pictures"
    elif glob.has_magic(str(source)):
        found = _pictures_among(Path(name) for name in glob.glob(str(source), recursive=True))
        what = "the pattern matches no pictures"
    else:
        raise ImageError(f"{source}: no such file or folder")
    if not found:
        raise ImageError(f"{source}: {what}; known suffixes are {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


def _pictures_among(paths: Iterable[Path]) -> list[Path]:
    pictures = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    return sorted(pictures, key=_natural_key)


def _natural_key(path: Path) -> list[str | int]:
    """Texts and numbers by turns, so that numbers compare as numbers."""
    return [int(part) if n % 2 else part.lower() for n, part in enumerate(re.split(r"(\d+)", str(path)))]
