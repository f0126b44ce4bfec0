"""Records written as a data set in VOC's, COCO's or YOLO's layout, pictures copied as they are."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import yaml

from pocketdet.core.images import IMAGE_SUFFIXES, image_size
from pocketdet.datasets.records import Record
from pocketdet.errors import DataError, SettingsError

_DATA_YAML_SPLITS = {"train", "val", "test"}  # what data.yaml can name in every tool


class _Copy(NamedTuple):
    """A picture in its new place."""

    name: str  # without folder, unlike all others before its suffix
    size: tuple[int, int]  # (height, width), upright
    record: Record

    @property
    def stem(self) -> str:
        return Path(self.name).stem


Splits = Mapping[str, Sequence[_Copy]]


def check_target(format: str, target: Path, source: Path) -> None:
    """Refuse a target before the work is done.

    Raises:
        SettingsError: The format is unknown, or the folder holds something or lies in the data set.
    """
    if format not in WRITERS:
        raise SettingsError(f"unknown format {format!r}; choose one of: {', '.join(WRITERS)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingsError(f"{target} is not an empty folder; nothing is written over, choose another one")
    root = source if source.is_dir() else source.parent
    if target.resolve().is_relative_to(root.resolve()):
        raise SettingsError(f"{target} lies in the data set, {root}, which stays as it is; choose another folder")


def write_dataset(
    target: Path, format: str, splits: Mapping[str, Sequence[Record]], class_names: Sequence[str]
) -> None:
    """Write a data set.

    YOLO's files know no "difficult"; VOC's have no list of classes, so those without objects are lost.

    Args:
        target: An empty folder, or none yet.
        format: "voc", "coco" or "yolo".
        splits: The pictures of each.
        class_names: In the order of the class ids.

    Raises:
        DataError: The file system refuses a file.
    """
    taken: set[str] = set()
    copies = {
        split: [_Copy(_free_name(record.path, taken), image_size(record.path), record) for record in records]
        for split, records in splits.items()
    }
    try:
        WRITERS[format](target, copies, class_names)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be written ({error.strerror}); free some room or rights") from error


def _write_voc(target: Path, splits: Splits, class_names: Sequence[str]) -> None:
    for split, copies in splits.items():
        _write_text(target / "ImageSets" / "Main" / f"{split}.txt", [copy.stem for copy in copies])
        for copy in copies:
            _copy_picture(copy, target / "JPEGImages")
            _write_text(target / "Annotations" / f"{copy.stem}.xml", _voc_lines(copy, class_names))


def _voc_lines(copy: _Copy, class_names: Sequence[str]) -> list[str]:
    height, width = copy.size
    lines = [
        "<annotation>",
        f"  <filename>{escape(copy.name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    record = copy.record
    for box, class_id, difficult in zip(record.boxes.tolist(), record.class_ids, record.difficult, strict=True):
        left, top, right, bottom = box
        # VOC counts pixels from 1 and includes the last one.
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        inside = "".join(f"<{key}>{_number(value)}</{key}>" for key, value in corners.items())
        lines += [
            "  <object>",
            f"    <name>{escape(class_names[class_id])}</name>",
            f"    <difficult>{int(difficult)}</difficult>",
            f"    <bndbox>{inside}</bndbox>",
            "  </object>",
        ]
    return [*lines, "</annotation>"]


def _write_coco(target: Path, splits: Splits, class_names: Sequence[str]) -> None:
    categories = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
    for split, copies in splits.items():
        images, annotations = [], list[dict[str, object]]()
        for image_id, copy in enumerate(copies, start=1):
            _copy_picture(copy, target / "images" / split)
            height, width = copy.size
            images.append({"id": image_id, "file_name": copy.name, "width": width, "height": height})
            annotations += _coco_annotations(copy.record, image_id, len(annotations) + 1)
        content = {"images": images, "annotations": annotations, "categories": categories}
        _write_text(target / "annotations" / f"instances_{split}.json", [json.dumps(content)])


def _coco_annotations(record: Record, image_id: int, first_id: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for box, class_id, difficult in zip(record.boxes.tolist(), record.class_ids, record.difficult, strict=True):
        left, top, right, bottom = box
        found.append(
            {
                "id": first_id + len(found),
                "image_id": image_id,
                "category_id": int(class_id) + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": int(difficult),
            }
        )
    return found


def _write_yolo(target: Path, splits: Splits, class_names: Sequence[str]) -> None:
    for split, copies in splits.items():
        for copy in copies:
            _copy_picture(copy, target / "images" / split)
            _write_text(target / "labels" / split / f"{copy.stem}.txt", _yolo_lines(copy))
    if splits.keys() <= _DATA_YAML_SPLITS:
        content = {**{split: f"images/{split}" for split in splits}, "names": list(class_names)}
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        _write_text(target / "data.yaml", text.splitlines())
    else:  # splits of other names are found by their folders
        _write_text(target / "classes.txt", list(class_names))


def _yolo_lines(copy: _Copy) -> list[str]:
    height, width = copy.size
    return [
        f"{class_id} {(left + right) / 2 / width!r} {(top + bottom) / 2 / height!r} "
        f"{(right - left) / width!r} {(bottom - top) / height!r}"
        for (left, top, right, bottom), class_id in zip(
            copy.record.boxes.tolist(), copy.record.class_ids.tolist(), strict=True
        )
    ]


WRITERS: dict[str, Callable[[Path, Splits, Sequence[str]], None]] = {
    "voc": _write_voc,
    "coco": _write_coco,
    "yolo": _write_yolo,
}


def _free_name(path: Path, taken: set[str]) -> str:
    """A name that lists can hold and that no other picture has before its suffix, whatever the case of its letters."""
    stem = re.sub(r"\s+", "_", path.stem).encode("utf-8", "replace").decode()
    if Path(stem).suffix.lower() in IMAGE_SUFFIXES:  # VOC's lists would lose it
        stem = stem.replace(".", "_")
    name, number = stem, 2
    while name.casefold() in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name.casefold())
    return name + path.suffix


def _copy_picture(copy: _Copy, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(copy.record.path, folder / copy.name)


def _write_text(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _number(value: float) -> str:
    """Whole numbers without a point."""
    return str(int(value)) if value == int(value) else repr(value)
