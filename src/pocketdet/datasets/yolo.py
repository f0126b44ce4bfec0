"""YOLO: one ``.txt`` a picture, ``class cx cy w h`` relative to it; a ``data.yaml`` names splits and classes."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pocketdet.core.images import IMAGE_SUFFIXES
from pocketdet.datasets.findings import Journal, Place, Severity
from pocketdet.datasets.labels import Label, LabelledPicture, Split, find_pictures, read_lines, size_or_complaint
from pocketdet.errors import AnnotationError, DataError

_SPLIT_KEYS = ("train", "val", "valid", "validation", "test")
_CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names")
_TOLERANCE = 2e-3  # tools round: so far may a relative value lie outside 0 to 1
_ONLY_SPLIT = "train"  # where pictures and labels lie in one folder each


@dataclasses.dataclass(frozen=True)
class YoloFolder:
    """A data set in YOLO's layout.

    Args:
        root: For messages.
        sources: Of each split: folders of pictures, or ``.txt`` lists of pictures.
        listed_names: The classes; empty where nothing names them.
        names_source: The file that names them, for messages.
    """

    root: Path
    sources: dict[str, tuple[Path, ...]]
    listed_names: tuple[str, ...]
    names_source: Path

    def split_names(self) -> list[str]:
        """As ``data.yaml`` or the folders name them."""
        return list(self.sources)

    def split_sizes(self) -> dict[str, int]:
        """The splits and how many pictures each lists."""
        return {split: len(pictures) for split, pictures in self._pictures.items()}

    def source(self, split: str) -> Path:
        """The file with the names, or the folder."""
        return self.names_source

    def _class_names(self, tolerant: bool) -> tuple[str, ...]:
        """The listed names, or else "0", "1", ... up to the highest id of all splits."""
        if self.listed_names:
            return self.listed_names
        paths = [_label_path(picture) for pictures in self._pictures.values() for picture in pictures]
        # Findings of these splits are noted where the splits are read.
        labels = [label for path in paths for label in self._read_labels(path, (1, 1), Journal(tolerant)) or ()]
        return tuple(str(number) for number in range(1 + max((int(label.class_name) for label in labels), default=-1)))

    def read(self, split: str, journal: Journal) -> Split:
        """Pictures sorted by name; those without a label file are negatives."""
        pictures: list[LabelledPicture] = []
        if not self.listed_names:
            text = ": nothing names the classes; they are called by their ids"
            journal.note("class-names", self.root, text, Severity.SUSPECT)
        if not self._pictures[split]:
            places = ", ".join(map(str, self.sources[split]))
            raise DataError(
                f"{self.root}: split {split!r} has no pictures; {self.names_source} looks for them in {places}"
            )
        for path in self._pictures[split]:
            size = size_or_complaint(path, journal)
            labels = None if size is None else self._read_labels(_label_path(path), size, journal)
            if size is not None and labels is not None:
                pictures.append(LabelledPicture(path, size, labels, _label_path(path)))
        for file in self._lonely_labels(split):
            journal.note("no-picture", file, ": no picture has this name")
        return Split(pictures, self._class_names(journal.tolerant))

    def note_strays(self, journal: Journal) -> None:
        """Pictures without a label file, which readers take for negatives."""
        for path in sorted({picture for pictures in self._pictures.values() for picture in pictures}):
            if path.is_file() and not _label_path(path).is_file():
                text = f": has no label file; an empty {_label_path(path)} would say that it holds no object"
                journal.note("no-label", path, text, Severity.SUSPECT)

    @functools.cached_property
    def _pictures(self) -> dict[str, list[Path]]:
        return {
            split: [picture for source in sources for picture in _list_pictures(source)]
            for split, sources in self.sources.items()
        }

    def _lonely_labels(self, split: str) -> list[Path]:
        """Label files of a split's folders without a picture."""
        known = {_label_path(picture) for pictures in self._pictures.values() for picture in pictures}
        folders = {_label_path(source / "x").parent for source in self.sources[split] if source.is_dir()}
        files = sorted(file for folder in folders for file in folder.rglob("*.txt") if file.name != "classes.txt")
        return [file for file in files if file not in known]

    def _read_labels(self, path: Path, size: tuple[int, int], journal: Journal) -> list[Label] | None:
        """The labels of one file, which need not exist; ``None`` where it is no text."""
        labels: list[Label] = []
        with journal.guard(path):
            for number, line in enumerate(read_lines(path) if path.is_file() else (), start=1):
                with journal.guard(path):
                    labels += self._read_row(line.split(), size, Place(path, number))
            return labels
        return None

    def _read_row(self, columns: list[str], size: tuple[int, int], where: Place) -> list[Label]:
        """One label; none of an empty line."""
        if not columns:
            return []
        if len(columns) != 5 and (len(columns) < 7 or len(columns) % 2 == 0):
            raise AnnotationError(
                f"{where}: {len(columns)} columns; expected 5 (class cx cy w h) "
                f"or a polygon (class x1 y1 x2 y2 x3 y3 ...)"
            )
        try:
            class_id, *values = map(float, columns)
        except ValueError as error:
            raise AnnotationError(f"{where}: {' '.join(columns)!r} are not all numbers") from error
        if not math.isfinite(class_id) or class_id != int(class_id) or class_id < 0:
            raise AnnotationError(f"{where}: class id {columns[0]} is not a whole number from 0 on")
        if self.listed_names and class_id >= len(self.listed_names):
            raise AnnotationError(
                f"{where}: class id {int(class_id)} is out of range; {self.names_source} lists "
                f"{len(self.listed_names)} classes, numbered from 0",
                "unknown-class",
            )
        for value in values:
            if not -_TOLERANCE <= value <= 1 + _TOLERANCE:
                raise AnnotationError(
                    f"{where}: {value:g} is outside 0 to 1; values are relative to the picture's size", "outside"
                )
        name = self.listed_names[int(class_id)] if self.listed_names else str(int(class_id))
        return [Label(name, _to_image_pixels(values, size), False, where)]


def find_yolo(path: Path) -> YoloFolder | None:
    """The data set, where ``path`` is a folder in this layout or its ``data.yaml``."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return _read_yaml(path)
    for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml"):
        if (path / name).is_file():
            return _read_yaml(path / name)
    folders = _find_split_folders(path)
    if not folders:
        return None
    class_file = next((path / name for name in _CLASS_FILES if (path / name).is_file()), None)
    lines = read_lines(class_file) if class_file else []
    names = tuple(line.strip() for line in lines if line.strip())
    return YoloFolder(path, {split: (folder,) for split, folder in folders.items()}, names, class_file or path)


def _find_split_folders(root: Path) -> dict[str, Path]:
    """Folders of pictures by split: ``images/SPLIT``, ``SPLIT/images``, or ``images`` alone."""
    images, labels = root / "images", root / "labels"
    if images.is_dir() and labels.is_dir():
        folders = {folder.name: folder for folder in sorted(images.iterdir()) if folder.is_dir()}
        return folders or {_ONLY_SPLIT: images}
    folders = {folder.parent.name: folder for folder in sorted(root.glob("*/images")) if folder.is_dir()}
    return {split: folder for split, folder in folders.items() if (root / split / "labels").is_dir()}


def _read_yaml(path: Path) -> YoloFolder:
    try:
        # The base loader leaves every value a string: a class named "no" is no boolean.
        content = yaml.load(path.read_text("utf-8-sig"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise AnnotationError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: expected the keys train, val and names")
    base = path.parent / str(content.get("path", ""))
    base = base if base.is_dir() else path.parent  # many files hold a path of the machine that wrote them
    sources = {
        key: _find_sources(content[key], base, f"{path}: {key}")
        for key in _SPLIT_KEYS
        if not _is_empty(content.get(key))
    }
    if not sources:
        raise AnnotationError(f"{path}: names no split; expected train, val or test with a folder of pictures")
    return YoloFolder(path.parent, sources, _read_names(content.get("names"), path), path)


def _is_empty(value: Any) -> bool:
    return value in (None, "", "~", "null", [])


def _find_sources(value: Any, base: Path, where: str) -> tuple[Path, ...]:
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in entries):
        raise AnnotationError(f"{where} is {value!r}; expected a folder, a .txt list of pictures, or a list of these")
    return tuple(_find_source(entry, base) for entry in entries)


def _find_source(entry: str, base: Path) -> Path:
    # Roboflow's files say ../train/images for a folder beside them.
    guesses = (base / entry, base / entry.removeprefix("../"))
    return next((guess for guess in guesses if guess.exists()), guesses[0])


def _read_names(names: Any, path: Path) -> tuple[str, ...]:
    if _is_empty(names):
        return ()
    if isinstance(names, dict):
        ids = [str(number) for number in range(len(names))]
        if set(ids) != names.keys():
            raise AnnotationError(f"{path}: names has the ids {', '.join(names)}; expected 0 to {len(names) - 1}")
        names = [names[class_id] for class_id in ids]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AnnotationError(f"{path}: names is {names!r}; expected a list of names, or a name for each id")
    return tuple(names)


def _list_pictures(source: Path) -> list[Path]:
    if source.is_file() and source.suffix.lower() == ".txt":
        lines = [line.strip() for line in read_lines(source) if line.strip()]
        return [source.parent / line for line in lines]
    if source.is_file() and source.suffix.lower() in IMAGE_SUFFIXES:
        return [source]
    return find_pictures(source) if source.is_dir() else []


def _label_path(picture: Path) -> Path:
    """The last ``images`` on the way to the picture becomes ``labels``; or else the label lies beside the picture."""
    parts = list(picture.with_suffix(".txt").parts)
    places = [number for number, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    beside, apart = picture.with_suffix(".txt"), Path(*parts)
    return beside if beside.is_file() and not apart.is_file() else apart


def _to_image_pixels(values: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A relative cxcywh box, or the points of a polygon, to a box, xyxy in image pixels."""
    height, width = size
    if len(values) == 4:
        x, y, w, h = values
        return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
    xs, ys = values[0::2], values[1::2]
    return min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height
