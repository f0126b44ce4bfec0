"""One door to data sets: the layout is found out, the labels become records."""

import collections
import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketdet.datasets.coco import find_coco
from pocketdet.datasets.findings import Journal
from pocketdet.datasets.labels import Label, LabelledPicture, Layout, Split, note_no_area
from pocketdet.datasets.records import Dataset, Record
from pocketdet.datasets.voc import find_voc
from pocketdet.datasets.yolo import find_yolo
from pocketdet.errors import AnnotationError, DataError

_SYNONYMS = {"valid": "val", "validation": "val"}

_LAYOUTS = """expected one of
  VOC:  Annotations/*.xml, JPEGImages/*, and lists in ImageSets/Main/SPLIT.txt (without lists all is "train")
  COCO: annotations/*.json with the pictures in a folder named as the split or in images/,
        or SPLIT/_annotations.coco.json (or labels.json) beside its pictures
  YOLO: data.yaml with train, val and names, or images/SPLIT/* and labels/SPLIT/*.txt"""


def load_dataset(path: str | Path, splits: Sequence[str] = ("train",), classes: Sequence[str] = ()) -> Dataset:
    """Read splits of a data set in VOC's, COCO's or YOLO's layout.

    Boxes are clipped to their picture; what is left out is named in ``skipped``.

    Args:
        path: The folder; or a COCO ``.json`` or YOLO ``data.yaml``.
        splits: One after the other; "val", "valid" and "validation" are one name, and "train" finds "train2017".
        classes: Only these, in this order; by default all that the labels know, over all splits.

    Raises:
        DataError: The layout, a split or a class is unknown, or no picture is left.
        AnnotationError: A label is wrong.
    """
    try:
        with named_failures():
            return _load(find_layout(Path(path)), path, splits, classes)
    except AnnotationError as error:
        raise AnnotationError(f"{error}; `pocketdet check {path}` lists all that is wrong", error.kind) from error


def _load(layout: Layout, path: str | Path, splits: Sequence[str], classes: Sequence[str]) -> Dataset:
    names = match_splits(splits, layout.split_names(), path)
    journal = Journal()
    parts = {name: layout.read(name, journal) for name in names}
    class_names = choose_classes(_agreed_classes(parts, path), classes, path)
    class_ids = {name: number for number, name in enumerate(class_names)}
    dropped: collections.Counter[str] = collections.Counter()
    records = tuple(
        build_record(picture, class_ids, journal, dropped) for part in parts.values() for picture in part.pictures
    )
    skipped = [finding.message for finding in journal.findings]
    if not records:
        reasons = "".join(f"\n  {line}" for line in skipped[:5])
        raise DataError(f"{path}: no readable picture in {', '.join(names)}{reasons}")
    if dropped:
        listing = ", ".join(f"{name} {count}" for name, count in sorted(dropped.items()))
        skipped.append(f"{path}: {dropped.total()} boxes of classes that were not asked for: {listing}")
    return Dataset(records, class_names, tuple(skipped))


def list_splits(path: str | Path) -> dict[str, int]:
    """The splits of a data set and how many pictures each lists.

    Raises:
        DataError: The layout is unknown.
    """
    with named_failures():
        return find_layout(Path(path)).split_sizes()


def has_split(path: str | Path, split: str) -> bool:
    """Whether ``load_dataset`` finds a split, under this name or a synonym of it."""
    try:
        _match_split(split, list(list_splits(path)), path)
    except DataError:
        return False
    return True


@contextlib.contextmanager
def named_failures() -> Iterator[None]:
    """What the file system refuses is a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be read ({error.strerror}); check the name and its permissions"
        ) from error


def find_layout(path: Path) -> Layout:
    """The data set in one of the three layouts."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check the path (relative ones start in {Path.cwd()})")
    for find in (find_voc, find_coco, find_yolo):
        layout: Layout | None = find(path)
        if layout is not None:
            return layout
    raise DataError(f"{path}: not a data set that pocketdet knows; {_LAYOUTS}")


def match_splits(wanted: Sequence[str], names: list[str], path: str | Path) -> list[str]:
    """The names by which the data set knows the splits; at least one."""
    if not wanted:
        raise DataError(f"{path}: no split was asked for; it has: {', '.join(names)}")
    return list(dict.fromkeys(_match_split(split, names, path) for split in wanted))


def _match_split(wanted: str, names: list[str], path: str | Path) -> str:
    if wanted in names:
        return wanted
    for plain in (_canonical, _without_year):
        found = [name for name in names if plain(name) == plain(wanted)]
        if len(found) == 1:
            return found[0]
    raise DataError(f"{path}: no split {wanted!r}, or more than one that could be meant; it has: {', '.join(names)}")


def _canonical(split: str) -> str:
    return _SYNONYMS.get(split.lower(), split.lower())


def _without_year(split: str) -> str:
    """COCO's instances_train2017 is a train."""
    name = re.sub(r"^(instances|annotations)_", "", split.lower())
    return _canonical(re.sub(r"_?(19|20)\d\d$", "", name))


def _agreed_classes(parts: dict[str, Split], path: str | Path) -> tuple[str, ...]:
    lists = {part.class_names for part in parts.values()}
    if len(lists) > 1:
        listing = "; ".join(f"{split}: {', '.join(part.class_names)}" for split, part in parts.items())
        raise DataError(f"{path}: its splits list different classes, make them the same ({listing})")
    return lists.pop()


def choose_classes(known: tuple[str, ...], wanted: Sequence[str], path: str | Path) -> tuple[str, ...]:
    """Those asked for, or else all; each once and all known."""
    if not known:
        raise DataError(f"{path}: its labels name no class at all; label at least one object")
    doubles = [name for name, count in collections.Counter(wanted or known).items() if count > 1]
    if doubles:
        raise DataError(f"{path}: class {doubles[0]!r} is listed twice; every class needs a name of its own")
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name.lower(), [n.lower() for n in known], n=1)
            hint = next((f"; did you mean {n!r}?" for n in known if [n.lower()] == close), ".")
            raise DataError(f"{path}: no class {name!r}{hint} The labels have: {', '.join(known)}")
    return tuple(wanted) or known


def build_record(
    picture: LabelledPicture, class_ids: dict[str, int], journal: Journal, dropped: collections.Counter[str]
) -> Record:
    """The targets of a picture; boxes that cannot be used are noted, those of other classes counted in ``dropped``."""
    boxes, ids, difficult = [], [], []
    for label in picture.labels:
        if label.class_name not in class_ids:
            dropped[label.class_name] += 1
            continue
        box = _clip(label, picture.size, journal)
        if box is not None:
            boxes.append(box)
            ids.append(class_ids[label.class_name])
            difficult.append(label.difficult)
    return Record(
        picture.path,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(ids, np.int64),
        np.array(difficult, np.bool_),
    )


def _clip(label: Label, size: tuple[int, int], journal: Journal) -> NDArray[np.float32] | None:
    height, width = size
    x0, y0, x1, y1 = label.box
    if x1 <= x0 or y1 <= y0:
        note_no_area(label.class_name, label.box, label.where, journal)
        return None
    clipped = np.array([max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)], np.float32)
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        box = ", ".join(f"{value:g}" for value in label.box)
        text = f" ({label.class_name}): its box {box} is outside the picture, {width} x {height}"
        journal.note("outside", label.where, text)
        return None
    return clipped
