"""From what a person names to pictures: a path, a folder, a pattern or several of them; and what is a video."""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pocketdet.core.images import IMAGE_SUFFIXES
from pocketdet.errors import ImageError

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"}
)
_DIGITS = 20  # of the longest number in a file name that is compared as a number


def is_video(source: str | Path) -> bool:
    """Whether a source names a video file, a camera or a stream, rather than pictures."""
    text = str(source)
    return Path(text).suffix.lower() in VIDEO_SUFFIXES or "://" in text or is_camera(text)


def is_camera(source: str) -> bool:
    """Whether a source is the number or the device of a camera."""
    return source.startswith(("/dev/video", "video=")) or (source.isdecimal() and not Path(source).exists())


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
    return list(iter_pictures(source))


def iter_pictures(source: str | Path) -> Iterator[Path]:
    """As ``list_pictures``, with the names alone in memory: of 100,000 pictures 8 MB.

    Raises:
        ImageError: Nothing is there, or no picture.
    """
    path = Path(source)
    if path.is_file():
        yield path
        return
    if path.is_dir():
        folder, what = path, "the folder has no pictures"
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if _is_picture(entry.name) and entry.is_file()]
    elif glob.has_magic(str(source)):
        folder, what = Path(), "the pattern matches no pictures"
        names = [name for name in glob.iglob(str(source), recursive=True) if _is_picture(name) and Path(name).is_file()]
    else:
        raise ImageError(f"{source}: no such file or folder")
    if not names:
        raise ImageError(f"{source}: {what}; known suffixes are {', '.join(sorted(IMAGE_SUFFIXES))}")
    names.sort(key=_natural_key)
    for name in names:
        yield folder / name


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _natural_key(name: str) -> str:
    """Numbers filled up with zeros, so that they compare as numbers."""
    return re.sub(r"\d+", lambda number: number[0].zfill(_DIGITS), name.lower())
