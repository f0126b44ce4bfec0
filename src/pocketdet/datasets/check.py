"""What is wrong with a data set: all of it read once, and every fault named with its place."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pocketdet.core.images import image_orientation, read_image
from pocketdet.core.letterbox import Letterbox
from pocketdet.datasets.duplicates import Fingerprint, Listing, find_surplus, note_duplicates, take_fingerprint
from pocketdet.datasets.findings import Journal, Severity
from pocketdet.datasets.labels import LabelledPicture, Layout, Split
from pocketdet.datasets.load import build_record, choose_classes, find_layout, match_splits, named_failures
from pocketdet.datasets.records import Record
from pocketdet.datasets.report import CheckReport
from pocketdet.datasets.statistics import measure_figures
from pocketdet.errors import DataError, ImageError, SettingsError

_ENOUGH = (64, 64)  # (height, width) at which pictures are compared; a JPEG is decoded no larger
_TINY_SIDE = 16  # image pixels
_BEYOND = 1.0  # image pixels: so far outside its picture a box may reach by rounding or by counting from 1


@dataclasses.dataclass(frozen=True)
class CheckedDataset:
    """A data set and what is wrong with it.

    Args:
        report: The findings and figures.
        class_names: In the order of the class ids.
        clean: What is left of each split: no picture or label that cannot be used, each file once.
    """

    report: CheckReport
    class_names: tuple[str, ...]
    clean: dict[str, list[Record]]


def check_dataset(
    path: str | Path,
    size: int = 416,
    splits: Sequence[str] = (),
    classes: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> CheckedDataset:
    """Read pictures and labels of a data set and name all that is wrong with them.

    Args:
        path: The folder; or a COCO ``.json`` or YOLO ``data.yaml``.
        size: Height and width of the network's input, for sizes in input pixels.
        splits: By default all.
        classes: Look at these alone; by default at all that the labels know.
        progress: Called with the number of pictures read, and of all.

    Raises:
        DataError: The layout, a split or a class is unknown.
        AnnotationError: The file that names splits and classes is wrong.
        SettingsError: The size is none that a network can have.
    """
    if size < 64 or size % 32:
        raise SettingsError(f"size is {size}; it must be a multiple of 32, from 64 on")
    with named_failures():
        return _check(find_layout(Path(path)), Path(path), size, splits, classes, progress)


def _check(
    layout: Layout,
    path: Path,
    size: int,
    splits: Sequence[str],
    classes: Sequence[str],
    progress: Callable[[int, int], None] | None,
) -> CheckedDataset:
    journal = Journal(tolerant=True)
    parts = _read_splits(layout, match_splits(splits or layout.split_names(), layout.split_names(), path), journal)
    unions = _find_unions(parts)
    parts = {name: part for name, part in parts.items() if name not in unions}
    class_names = _settle_classes(parts, classes, path, journal)
    pictures = {picture.path: picture for part in parts.values() for picture in part.pictures}
    fingerprints = _inspect_pictures(list(pictures.values()), journal, progress)
    records = {name: _build_records(part, class_names, fingerprints, journal) for name, part in parts.items()}
    listings = [
        Listing(record.path, split, fingerprints[record.path]) for split, found in records.items() for record in found
    ]
    note_duplicates(listings, journal)
    _note_missing_objects(layout, records, class_names, journal)
    scales = {file: Letterbox(picture.size, (size, size)).scale for file, picture in pictures.items()}
    findings = tuple(dict.fromkeys(journal.findings))  # what two splits share is found twice
    report = CheckReport(path, size, unions, measure_figures(records, scales, class_names), findings)
    surplus = find_surplus(listings)
    clean = {
        split: list({r.path: r for r in found if (split, r.path) not in surplus}.values())
        for split, found in records.items()
    }
    return CheckedDataset(report, class_names, clean)


def _read_splits(layout: Layout, names: Sequence[str], journal: Journal) -> dict[str, Split]:
    parts = {}
    for name in names:
        with journal.guard(layout.source(name)):
            parts[name] = layout.read(name, journal)
    layout.note_strays(journal)
    return parts


def _find_unions(parts: dict[str, Split]) -> dict[str, tuple[str, ...]]:
    """Splits that are others together, as VOC's trainval is train and val; no leak is in that."""
    paths = {name: {picture.path for picture in part.pictures} for name, part in parts.items()}
    unions = {}
    for name, whole in paths.items():
        inner = tuple(other for other in paths if paths[other] and paths[other] < whole)
        if len(inner) > 1 and set().union(*(paths[other] for other in inner)) == whole:
            unions[name] = inner
    return unions


def _settle_classes(parts: dict[str, Split], wanted: Sequence[str], path: Path, journal: Journal) -> tuple[str, ...]:
    """The classes that are looked at; lists that differ or name a class twice are noted."""
    lists = {name: part.class_names for name, part in parts.items()}
    known = tuple(dict.fromkeys(name for names in lists.values() for name in names))
    with journal.guard(path, "class-names"):
        if len(set(lists.values())) > 1:
            listing = "; ".join(f"{split}: {', '.join(names)}" for split, names in lists.items())
            raise DataError(f"{path}: its splits list different classes, make them the same ({listing})")
    if wanted and known:
        return choose_classes(known, wanted, path)
    with journal.guard(path, "class-names"):
        for names in set(lists.values()):
            choose_classes(names, (), path)
    spellings = collections.defaultdict(list)
    for name in known:
        spellings["".join(filter(str.isalnum, name.casefold()))].append(name)
    for alike in spellings.values():
        if len(alike) > 1:
            text = f": the classes {' and '.join(map(repr, alike))} differ by their spelling alone; are they one?"
            journal.note("class-names", path, text, Severity.SUSPECT)
    return known or tuple(wanted)


def _inspect_pictures(
    pictures: Sequence[LabelledPicture], journal: Journal, progress: Callable[[int, int], None] | None
) -> dict[Path, Fingerprint]:
    """Decode every picture; those that can be decoded have a fingerprint."""
    fingerprints = {}
    for number, picture in enumerate(pictures, start=1):
        try:
            pixels = read_image(picture.path, at_least=_ENOUGH).pixels
            fingerprints[picture.path] = take_fingerprint(picture.path, pixels)
            _note_geometry(picture, journal)
        except ImageError as error:
            text = str(error).removeprefix(str(picture.path))
            journal.note("picture", picture.path, text, Severity.STOPS)
        if progress:
            progress(number, len(pictures))
    return fingerprints


def _note_geometry(picture: LabelledPicture, journal: Journal) -> None:
    """Note what is odd about the size of a picture and the way it lies."""
    height, width = picture.size
    orientation = image_orientation(picture.path)
    if orientation != 1:
        text = (
            f": its EXIF orientation is {orientation}, so it is turned upright to {width} x {height}; "
            f"boxes are understood to lie on the upright picture"
        )
        journal.note("exif-rotated", picture.path, text, Severity.SUSPECT)
    if min(picture.size) < _TINY_SIDE:
        journal.note("tiny-picture", picture.path, f": only {width} x {height} pixels", Severity.SUSPECT)
    if picture.listed_size not in (None, picture.size):
        listed_height, listed_width = picture.listed_size
        is_turned = picture.listed_size == picture.size[::-1] and orientation != 1
        hint = "its EXIF orientation turns it" if is_turned else "boxes drawn on another size are wrong"
        text = f": says {listed_width} x {listed_height}, but {picture.path} is {width} x {height}; {hint}"
        journal.note("size-field", picture.source, text, Severity.SUSPECT)


def _build_records(part: Split, class_names: Sequence[str], readable: Iterable[Path], journal: Journal) -> list[Record]:
    class_ids = {name: number for number, name in enumerate(class_names)}
    readable, dropped = set(readable), collections.Counter[str]()  # classes that were not asked for are no fault
    records = []
    for picture in part.pictures:
        if picture.path in readable:
            _note_overhanging_boxes(picture, journal)
            records.append(build_record(picture, class_ids, journal, dropped))
    return records


def _note_overhanging_boxes(picture: LabelledPicture, journal: Journal) -> None:
    """Note boxes that lie partly outside; those wholly outside are left out as the record is built."""
    height, width = picture.size
    for label in picture.labels:
        x0, y0, x1, y1 = label.box
        is_inside = x0 < min(x1, width) and y0 < min(y1, height) and x1 > 0 and y1 > 0
        if is_inside and max(-x0, -y0, x1 - width, y1 - height) > _BEYOND:
            box = ", ".join(f"{value:g}" for value in label.box)
            text = (
                f" ({label.class_name}): its box {box} reaches beyond the picture, {width} x {height}, and is clipped"
            )
            journal.note("partly-outside", label.where, text, Severity.SUSPECT)


def _note_missing_objects(
    layout: Layout, records: dict[str, list[Record]], class_names: Sequence[str], journal: Journal
) -> None:
    """Note splits without an object, classes without one, and classes that the training split alone lacks."""
    used = {split: {class_names[k] for record in found for k in record.class_ids} for split, found in records.items()}
    for split, found in records.items():
        with journal.guard(layout.source(split)):
            if not used[split]:
                raise DataError(
                    f"{layout.source(split)}: split {split!r} has no usable object in {len(found)} pictures"
                )
        unused = [name for name in class_names if not any(name in names for names in used.values())]
        untrained = [name for name in class_names if name not in used[split] and name not in unused]
        if used[split] and unused:
            text = f": no object in {', '.join(records)} of the listed classes: {', '.join(unused)}"
            journal.note("unused-class", layout.source(split), text, Severity.SUSPECT)
        if used[split] and untrained and split.lower().startswith("train"):
            text = f": objects in other splits, but none in {split}, of the classes: {', '.join(untrained)}"
            journal.note("unused-class", layout.source(split), text, Severity.SUSPECT)
