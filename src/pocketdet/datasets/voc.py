"""PASCAL VOC: ``Annotations/ID.xml``, ``JPEGImages/ID.*`` (or ``images/ID.*``), ``ImageSets/Main/SPLIT.txt``."""

import contextlib
import dataclasses
import functools
import math
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from pocketdet.core.images import IMAGE_SUFFIXES
from pocketdet.datasets.findings import Finding, Journal, Place
from pocketdet.datasets.labels import (
    Label,
    LabelledPicture,
    Split,
    find_pictures,
    note_no_area,
    read_lines,
    size_or_complaint,
)
from pocketdet.errors import AnnotationError

_ONLY_SPLIT = "train"  # where there are no lists
_PICTURE_FOLDERS = ("JPEGImages", "images")  # the second is MediaPipe Model Maker's


@dataclasses.dataclass(frozen=True)
class VocFolder:
    """A data set in VOC's layout; without lists, all of it is the split "train".

    Args:
        root: The folder that holds ``Annotations``.
        picture_folder: Beside it.
    """

    root: Path
    picture_folder: str = _PICTURE_FOLDERS[0]

    def split_names(self) -> list[str]:
        """The lists."""
        return list(self._splits)

    def split_sizes(self) -> dict[str, int]:
        """The splits and how many pictures each lists."""
        return {split: len(ids) for split, ids in self._splits.items()}

    def source(self, split: str) -> Path:
        """The folder: in VOC's layout nothing lists the classes."""
        return self.root

    def read(self, split: str, journal: Journal) -> Split:
        """Pictures in the order of the list; class names sorted, from all splits."""
        pictures: list[LabelledPicture] = []
        for picture_id in self._splits[split]:
            path = self._pictures.get(picture_id)
            if path is None:
                missing = self.root / self.picture_folder / f"{picture_id}.*"
                journal.note("no-picture", missing, f": no such picture, but {split!r} lists it")
            elif picture_id not in self._annotation_paths:
                missing = self.root / "Annotations" / f"{picture_id}.xml"
                text = f": its annotation {missing} is missing; one without objects would make the picture a negative"
                journal.note("no-label", path, text)
            elif (size := size_or_complaint(path, journal)) is not None:
                annotation = self._annotation(picture_id, journal.tolerant)
                journal.findings += annotation.findings
                if annotation.is_whole:
                    source = self._annotation_paths[picture_id]
                    pictures.append(LabelledPicture(path, size, annotation.labels, source, annotation.size))
        return Split(pictures, self._class_names(journal.tolerant))

    def note_strays(self, journal: Journal) -> None:
        """Annotations without a picture, and pictures that no list names."""
        listed = {picture_id for ids in self._splits.values() for picture_id in ids}
        for picture_id, path in sorted(self._annotation_paths.items()):
            if picture_id not in self._pictures and picture_id not in listed:
                journal.note("no-picture", path, ": no picture has this name")
        for picture_id, path in sorted(self._pictures.items()):
            if picture_id not in listed:
                journal.note("unlisted", path, ": no split lists it")

    def _class_names(self, tolerant: bool) -> tuple[str, ...]:
        ids = {picture_id for ids in self._splits.values() for picture_id in ids}
        labels = (label for picture_id in ids for label in self._annotation(picture_id, tolerant).labels)
        return tuple(sorted({label.class_name for label in labels}))

    @functools.cached_property
    def _splits(self) -> dict[str, list[str]]:
        lists = sorted((self.root / "ImageSets" / "Main").glob("*.txt"))
        read = {path.stem: _read_list(path) for path in lists}
        splits = {split: ids for split, ids in read.items() if ids is not None}
        if splits:
            return splits
        return {_ONLY_SPLIT: sorted(self._annotation_paths.keys() | self._pictures.keys())}

    @functools.cached_property
    def _pictures(self) -> dict[str, Path]:
        return {path.stem: path for path in find_pictures(self.root / self.picture_folder)}

    @functools.cached_property
    def _annotations(self) -> dict[str, "_Annotation"]:
        return {}

    @functools.cached_property
    def _annotation_paths(self) -> dict[str, Path]:
        return {path.stem: path for path in (self.root / "Annotations").glob("*.xml")}

    def _annotation(self, picture_id: str, tolerant: bool) -> "_Annotation":
        if picture_id not in self._annotations:
            path = self._annotation_paths.get(picture_id)
            self._annotations[picture_id] = _read_annotation(path, Journal(tolerant)) if path else _NO_ANNOTATION
        return self._annotations[picture_id]


class _Annotation(NamedTuple):
    labels: list[Label]
    size: tuple[int, int] | None  # (height, width), as the file has it
    is_whole: bool  # the file could be read, though perhaps not each of its objects
    findings: list[Finding]


_NO_ANNOTATION = _Annotation([], None, False, [])


def find_voc(path: Path) -> VocFolder | None:
    """The data set, where ``path`` is a folder in this layout."""
    folders = [name for name in _PICTURE_FOLDERS if (path / name).is_dir()]
    if not folders or not (path / "Annotations").is_dir():
        return None
    if folders[0] != _PICTURE_FOLDERS[0] and not any((path / "Annotations").glob("*.xml")):
        return None  # COCO's annotations/ on a disk that takes upper and lower case for the same
    return VocFolder(path, folders[0])


def _read_list(path: Path) -> list[str] | None:
    """The ids of a list; ``None`` for VOC's lists of one class (``cat_train.txt``) with -1, 0 or 1 behind each id."""
    rows = [line.split() for line in read_lines(path) if line.strip()]
    if rows and all(len(row) == 2 and row[1] in ("-1", "0", "1") for row in rows):
        return None
    names = [Path(" ".join(row)) for row in rows]
    return [name.stem if name.suffix.lower() in IMAGE_SUFFIXES else name.name for name in names]


def _read_annotation(path: Path, journal: Journal) -> _Annotation:
    labels: list[Label] = []
    with journal.guard(path):
        root = _parse(path)
        for number, element in enumerate(root.all("object"), start=1):
            with journal.guard(path):
                labels += _read_object(element, Place(path, element.line, f"object {number}"), journal)
        return _Annotation(labels, _read_size(root), True, journal.findings)
    return _Annotation([], None, False, journal.findings)


def _read_object(element: "_Element", where: Place, journal: Journal) -> list[Label]:
    """One label; none where its box has no area."""
    class_name = element.one("name", where).text.strip()
    corners = element.one("bndbox", where)
    left, top, right, bottom = (corners.number(key, where) for key in ("xmin", "ymin", "xmax", "ymax"))
    if right <= left or bottom <= top:  # a slip of the mouse, though by the letter one pixel broad
        note_no_area(class_name, (left, top, right, bottom), where, journal)
        return []
    marks = element.all("difficult")
    difficult = bool(marks) and marks[0].text.strip() not in ("", "0")
    # VOC counts pixels from 1 and includes the last one.
    return [Label(class_name, (left - 1, top - 1, right, bottom), difficult, where)]


def _read_size(root: "_Element") -> tuple[int, int] | None:
    """(height, width) where the annotation has both; nothing but the check needs them."""
    with contextlib.suppress(AnnotationError):
        size = root.one("size", Place(root.path))
        return int(size.number("height", Place(root.path))), int(size.number("width", Place(root.path)))
    return None


@dataclasses.dataclass
class _Element:
    """An XML element that knows its line, which the standard library's trees do not."""

    tag: str
    line: int
    path: Path
    text: str = ""
    children: list["_Element"] = dataclasses.field(default_factory=list)

    def all(self, tag: str) -> list["_Element"]:
        return [child for child in self.children if child.tag == tag]

    def one(self, tag: str, where: Place) -> "_Element":
        found = self.all(tag)
        if not found:
            raise AnnotationError(f"{where} has no <{tag}> in its <{self.tag}>; add it or remove the object")
        if not found[0].children and not found[0].text.strip():
            raise AnnotationError(f"{self.path}:{found[0].line}: <{tag}> is empty; fill it in or remove the object")
        return found[0]

    def number(self, tag: str, where: Place) -> float:
        element = self.one(tag, where)
        try:
            value = float(element.text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise AnnotationError(f"{self.path}:{element.line}: <{tag}> is {element.text.strip()!r}; expected a number")
        return value


def _parse(path: Path) -> _Element:
    document = _Element("document", 0, path)
    open_elements = [document]
    parser = expat.ParserCreate()

    def start(tag: str, _: dict[str, str]) -> None:
        element = _Element(tag, parser.CurrentLineNumber, path)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(_: str) -> None:
        open_elements.pop()

    def characters(text: str) -> None:
        open_elements[-1].text += text

    def entity(*_: object) -> None:
        raise AnnotationError(f"{path}:{parser.CurrentLineNumber}: declares an entity; VOC needs none, remove it")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        reason = expat.errors.messages.get(error.code, str(error))
        raise AnnotationError(f"{path}:{error.lineno}: not valid XML ({reason}); mend or replace the file") from error
    except (LookupError, ValueError) as error:
        raise AnnotationError(f"{path}:1: its encoding cannot be read ({error}); save it as UTF-8") from error
    root = document.children[0]
    if root.tag != "annotation":
        raise AnnotationError(f"{path}:{root.line}: starts with <{root.tag}>; expected VOC's <annotation>")
    return root
