"""COCO: ``annotations/*.json`` with pictures in a folder of their own, or one file in each split's folder.

Roboflow calls that file ``_annotations.coco.json`` and MediaPipe Model Maker ``labels.json``.
"""

import collections
import contextlib
import dataclasses
import json
from collections.abc import Container
from pathlib import Path
from typing import Any, TypeGuard

from pocketdet.datasets.findings import Journal, Place
from pocketdet.datasets.labels import Label, LabelledPicture, Split, is_picture, size_or_complaint
from pocketdet.errors import AnnotationError

_ONE_A_FOLDER = ("_annotations.coco.json", "labels.json")
_ONLY_SPLIT = "train"  # where one folder is all there is
_BACKGROUND = (0, "background")  # a category that Model Maker reserves
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

    def source(self, split: str) -> Path:
        """Its file."""
        return self.files[split]

    def read(self, split: str, journal: Journal) -> Split:
        """Pictures in the order of the file; class names are its categories in the order of their sparse ids."""
        path = self.files[split]
        content = _read_json(path)
        names = _read_categories(content["categories"], path)
        used = {annotation.get("category_id") for annotation in content["annotations"] if isinstance(annotation, dict)}
        if _BACKGROUND in names.items() and _BACKGROUND[0] not in used:
            del names[_BACKGROUND[0]]
        images = _read_images(content["images"], path, journal)
        labels = _group_by_picture(content["annotations"], images, names, path, journal)
        pictures = []
        for image_id, image in images.items():
            picture_path = _find_picture(path, split, image["file_name"])
            size = size_or_complaint(picture_path, journal)
            if size is not None:
                pictures.append(LabelledPicture(picture_path, size, labels[image_id], path, _listed_size(image)))
        return Split(pictures, tuple(names.values()))

    def note_strays(self, journal: Journal) -> None:
        """Pictures beside listed ones that no file lists."""
        listed = set[Path]()
        for split, path in self.files.items():
            with contextlib.suppress(AnnotationError):  # the split's own reading notes it
                images = _read_images(_read_json(path)["images"], path, Journal(tolerant=True))
                listed |= {_find_picture(path, split, image["file_name"]) for image in images.values()}
        folders = {path.parent for path in listed if path.is_file()}
        strays = {path for folder in folders for path in folder.iterdir() if is_picture(path)} - listed
        for path in sorted(strays):
            journal.note("unlisted", path, ": no split lists it")


def find_coco(path: Path) -> CocoFolder | None:
    """The data set, where ``path`` is a folder in this layout or one JSON file of it."""
    if path.suffix.lower() == ".json":
        return CocoFolder({path.parent.name if path.name in _ONE_A_FOLDER else _split_name(path): path})
    for name in _ONE_A_FOLDER:
        if files := sorted(path.glob(f"*/{name}")):
            return CocoFolder({file.parent.name: file for file in files})
        if (path / name).is_file():
            return CocoFolder({_ONLY_SPLIT: path / name})
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


def _read_images(images: list[Any], path: Path, journal: Journal) -> dict[object, dict[str, Any]]:
    """The entries of pictures by their id; each has a name."""
    by_id: dict[object, dict[str, Any]] = {}
    for number, image in enumerate(images):
        with journal.guard(path):
            where = Place(path, None, f"images[{number}]")
            image_id = _value(image, "id", where)
            if image_id in by_id:
                raise AnnotationError(f"{where}: another picture has the same id, {image_id}; ids must differ")
            _value(image, "file_name", where)
            by_id[image_id] = image
    return by_id


def _group_by_picture(
    annotations: list[Any], images: Container[object], names: dict[object, str], path: Path, journal: Journal
) -> dict[object, list[Label]]:
    """Labels by the id of their picture."""
    labels: dict[object, list[Label]] = collections.defaultdict(list)
    for number, annotation in enumerate(annotations):
        with journal.guard(path):
            where = Place(path, None, f"annotations[{number}]")
            label = _read_label(annotation, names, where)
            image_id = _value(annotation, "image_id", where)
            if image_id in images:
                labels[image_id].append(label)
            else:
                journal.note("no-picture", where, f" ({label.class_name}): no picture has its image_id, {image_id}")
    return labels


def _read_label(annotation: Any, names: dict[object, str], where: Place) -> Label:
    category_id = _value(annotation, "category_id", where)
    if category_id not in names:
        listing = ", ".join(f"{number} {name}" for number, name in names.items())
        raise AnnotationError(
            f"{where}: category_id {category_id} is unknown; the file lists: {listing}", "unknown-class"
        )
    box = _value(annotation, "bbox", where)
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise AnnotationError(f"{where}: bbox is {box!r}; expected four numbers: left, top, width, height")
    left, top, width, height = map(float, box)
    is_crowd = bool(annotation.get("iscrowd", 0))
    return Label(names[category_id], (left, top, left + width, top + height), is_crowd, where)


def _value(entry: Any, key: str, where: object) -> Any:
    if not isinstance(entry, dict) or entry.get(key) is None:
        raise AnnotationError(f"{where} has no {key!r}; add it or remove the entry")
    value = entry[key]
    if key != "bbox" and not isinstance(value, str | int):
        raise AnnotationError(f"{where}: {key!r} is {value!r}; expected a number or a name")
    return value


def _listed_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) where the entry has both; nothing but the check needs them."""
    height, width = image.get("height"), image.get("width")
    return (int(height), int(width)) if _is_number(height) and _is_number(width) else None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_HUGE < value < _HUGE


def _find_picture(json_path: Path, split: str, file_name: str) -> Path:
    """Where the picture lies; the first guess where it lies nowhere."""
    root = json_path.parent.parent if json_path.parent.name == "annotations" else json_path.parent
    folders = (root / split, root / "images" / split, root / "images", root, json_path.parent)
    guesses = [folder / str(file_name) for folder in folders]
    return next((guess for guess in guesses if guess.is_file()), guesses[0])
