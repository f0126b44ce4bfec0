"""Pictures without labels, labelled by the teacher once, before the first step; the run's folder keeps its answers."""

import collections
import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.console import Console

from pocketdet.core.detections import Detections
from pocketdet.datasets.load import load_dataset
from pocketdet.datasets.records import Dataset
from pocketdet.errors import DataError, ImageError
from pocketdet.models.checkpoint import TorchBackend
from pocketdet.runtime.predictor import IOU_THRESHOLD, Predictor
from pocketdet.runtime.sources import list_pictures
from pocketdet.training.distillation import Teacher
from pocketdet.training.run_folder import RunFolder
from pocketdet.training.settings import TrainSettings


def add_pseudo_labels(
    training: Dataset,
    validation: Dataset,
    teacher: Teacher,
    settings: TrainSettings,
    console: Console,
    is_resumed: bool,
) -> Dataset:
    """What is learned from, with the pictures that the teacher has labelled.

    Args:
        training: The labelled pictures to learn from.
        validation: The pictures that choose the best detector; those in the folder stay out.
        teacher: Labels at its own input size.
        settings: Of the run.
        console: For what was found, and what was left out and why.
        is_resumed: Nothing is labelled again; the file that the run wrote when it began is read.

    Raises:
        DataError: The teacher finds nothing in any picture, or a resumed run misses its file or a picture.
        ImageError: There are no pictures.
    """
    file = RunFolder(settings.output).pseudo_labels
    if not is_resumed:
        known = {record.path.resolve() for record in (*training.records, *validation.records)}
        _write(file, _label(teacher, settings, known, console), teacher.metadata.class_names)
    labelled = _read(file, training.class_names)
    _tell(labelled, console)
    return dataclasses.replace(training, records=(*training.records, *labelled.records))


def _label(teacher: Teacher, settings: TrainSettings, known: set[Path], console: Console) -> list[Detections]:
    """The teacher's answers to the pictures in which it finds something."""
    assert settings.pseudo_label is not None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = Predictor(TorchBackend(teacher.detector.to(device), teacher.metadata))
    found, empty, doubles = list[Detections](), 0, 0
    for path in list_pictures(settings.pseudo_label):
        if path.resolve() in known:
            doubles += 1
            continue
        try:
            detections = predictor.predict(path.resolve(), settings.pseudo_score, IOU_THRESHOLD)
        except ImageError as error:
            console.print(f"left out: {error}", style="yellow", markup=False, soft_wrap=True)
            continue
        if len(detections):
            found.append(detections)
        else:
            empty += 1
    console.print(
        f"pictures to label in {settings.pseudo_label}: left out {empty} in which the teacher finds nothing with a "
        f"score above {settings.pseudo_score}, and {doubles} that the data set has already",
        markup=False,
        soft_wrap=True,
    )
    if not found:
        raise DataError(
            f"{settings.pseudo_label}: the teacher labels none of its pictures; lower pseudo_score "
            f"({settings.pseudo_score}), or name a folder that shows {', '.join(teacher.metadata.class_names)}"
        )
    return found


def _write(file: Path, found: Iterable[Detections], class_names: tuple[str, ...]) -> None:
    """COCO's JSON, with whole paths for file names; whoever reads meanwhile sees no part of it."""
    images, annotations = list[dict[str, object]](), list[dict[str, object]]()
    for image_id, detections in enumerate(found, start=1):
        height, width = detections.image_size
        images.append({"id": image_id, "file_name": detections.source, "width": width, "height": height})
        for (left, top, right, bottom), score, class_id in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.class_ids.tolist(), strict=True
        ):
            size = (right - left, bottom - top)
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": class_id + 1}
            box = {"bbox": [left, top, *size], "area": size[0] * size[1], "iscrowd": 0, "score": score}
            annotations.append(annotation | box)
    categories = [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]
    temporary = file.with_suffix(".writing")
    temporary.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}), "utf-8")
    os.replace(temporary, file)


def _read(file: Path, class_names: tuple[str, ...]) -> Dataset:
    labelled = load_dataset(file, (file.stem,), class_names)
    listed = len(json.loads(file.read_text("utf-8"))["images"])
    if len(labelled.records) < listed:
        reasons = "".join(f"\n  {line}" for line in labelled.skipped[:5])
        raise DataError(
            f"{file}: {listed - len(labelled.records)} of its {listed} pictures cannot be read any more; put them "
            f"back, or begin again in another folder by --output{reasons}"
        )
    return labelled


def _tell(labelled: Dataset, console: Console) -> None:
    """How many pictures, and boxes of each class."""
    counts = collections.Counter(int(number) for record in labelled.records for number in record.class_ids)
    boxes = ", ".join(f"{name} {counts[number]}" for number, name in enumerate(labelled.class_names))
    console.print(
        f"{len(labelled.records)} more pictures to learn from, labelled by the teacher; boxes: {boxes}",
        markup=False,
        soft_wrap=True,
    )
