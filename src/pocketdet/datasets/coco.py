"""COCO: ``annotations/*.json`` with pictures in a folder of their own, or ``SPLIT/_annotations.coco.json``."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from pocketdet.datasets.labels import Label, LabelledPicture, Split, size_or_complaint
from pocketdet.errors import AnnotationError

_ROBOFLOW = "_annotations.coco.json"
_HUGE = 1e9  # pixels; no picture is as large, and NaN and infinity fail the comparison too
_PARTS = ("images", "annotations", "categories")


@dataclasses.dataclass(frozen=True)
class CocoFolder:
    """A data set in COCO's layout.

    Args:
        files: The JSON file of each split.
    """

    files: dict[str, Path]

    def split_names(self) -> list[str]:
        """The JSON files."""
        return list(self.files)

    def split_sizes(self) -> dict[str, int]:
        """The splits and how many pictures each lists."""
        return {split: len(_read_json(path)["images"]) for split, path in self.files.items()}

    def read(self, split: str) -> Split:
        """Pictures in the order of the file; class names are its categories in the order of their sparse ids."""
        path, skipped = self.files[split], list[str]()
        content = _read_json(path)
        names = _read_categories(content["categories"], path)
        labels = _group_by_picture(content, names, path, skipped)
        pictures = []
        for number, image in enumerate(content["images"]):
            picture_path = _find_picture(path, split, _value(image, "file_name", f"{path}: images[{number}]"))
            size = size_or_complaint(picture_path, skipped)
            if size is not None:
                pictures.append(LabelledPicture(picture_path, size, labels[image["id"]]))
        return Split(pictures, tuple(names.values()), skipped)


def find_coco(path: Path) -> CocoFolder | None:
    """The data set, where ``path`` is a folder in this layout or one JSON file of it."""
    if path.suffix.lower() == ".json":
        return CocoFolder({path.parent.name if path.name == _ROBOFLOW else _split_name(path): path})
    roboflow = sorted(path.glob(f"*/{_ROBOFLOW}"))
    if roboflow:
        return CocoFolder({file.parent.name: file for file in roboflow})
    files = sorted((path / "annotations").glob("*.json"))
    # COCO's own folder also holds captions and key points of the same pictures.
    instances = [file for file in files if file.stem.startswith("instances_")] or files
    return CocoFolder({_split_name(file): file for file in instances}) if instances else None


def _split_name(path: Path) -> str:
    return path.stem.removeprefix("instances_")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno}); mend or replace the file"
        ) from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not a text file ({error.reason}); expected COCO's JSON") from error
    for part in _PARTS:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise AnnotationError(f"{path}: has no list {part!r}; COCO's JSON holds {', '.join(_PARTS)}")
    return content


def _read_categories(categories: list[Any], path: Path) -> dict[object, str]:
    """Names by their sparse ids, in the order of the ids."""
    places = [f"{path}: categories[{number}]" for number in range(len(categories))]
    pairs = [
        (_value(c, "id", where), str(_value(c, "name", where))) for c, where in zip(categories, places, strict=True)
    ]
    if not all(isinstance(category_id, int) for category_id, _ in pairs):
        raise AnnotationError(f"{path}: the ids of its categories are not all integers; number them")
    return dict(sorted(pairs))


def _group_by_picture(
    content: dict[str, Any], names: dict[object, str], path: Path, skipped: list[str]
) -> dict[object, list[Label]]:
    """Labels by the id of their picture."""
    labels: dict[object, list[Label]] = {}
    for number, image in enumerate(content["images"]):
        where = f"{path}: images[{number}]"
        image_id = _value(image, "id", where)
        if image_id in labels:
            raise AnnotationError(f"{where}: another picture has the same id, {image_id}; ids must differ")
        labels[image_id] = []
    for number, annotation in enumerate(content["annotations"]):
        where = f"{path}: annotations[{number}]"
        label = _read_label(annotation, names, where)
        image_id = _value(annotation, "image_id", where)
        if image_id in labels:
            labels[image_id].append(label)
        else:
            skipped.append(f"{where} ({label.class_name}): no picture has its image_id, {image_id}")
    return labels


def _read_label(annotation: Any, names: dict[object, str], where: str) -> Label:
    category_id = _value(annotation, "category_id", where)
    if category_id not in names:
        listing = ", ".join(f"{number} {name}" for number, name in names.items())
        raise AnnotationError(f"{where}: category_id {category_id} is unknown; the file lists: {listing}")
    box = _value(annotation, "bbox", where)
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise AnnotationError(f"{where}: bbox is {box!r}; expected four numbers: left, top, width, height")
    left, top, width, height = map(float, box)
    is_crowd = bool(annotation.get("iscrowd", 0))
    return Label(names[category_id], (left, top, left + width, top + height), is_crowd, where)


def _value(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict) or entry.get(key) is None:
        raise AnnotationError(f"{where} has no {key!r}; add it or remove the entry")
    value = entry[key]
    if key != "bbox" and not isinstance(value, str | int):
        raise AnnotationError(f"{where}: {key!r} is {value!r}; expected a number or a name")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_HUGE < value < _HUGE


def _find_picture(json_path: Path, split: str, file_name: str) -> Path:
    """Where the picture lies; the first guess where it lies nowhere."""
    root = json_path.parent.parent if json_path.parent.name == "annotations" else json_path.parent
    folders = (root / split, root / "images" / split, root / "images", root, json_path.parent)
    guesses = [folder / str(file_name) for folder in folders]
    return next((guess for guess in guesses if guess.is_file()), guesses[0])
