"""``report.html`` of a training run: what its best detector is worth, and how it came to be."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from pocketdet.core.detections import Detections
from pocketdet.core.drawing import draw
from pocketdet.datasets.records import Dataset
from pocketdet.errors import PocketdetError
from pocketdet.evaluation import evaluate
from pocketdet.models.activity import find_constant
from pocketdet.models.checkpoint import TorchBackend, load_detector
from pocketdet.models.kernel_health import advise, kernel_health
from pocketdet.reports import Report, write_report
from pocketdet.runtime.predictor import Predictor
from pocketdet.training.loader import EpochBatches, TrainingPictures
from pocketdet.training.pictures import Sample
from pocketdet.training.run_folder import RunFolder
from pocketdet.training.settings import TrainSettings

BATCH_PICTURES = 8
COLUMNS = 4
WATCHED_PICTURES = 100  # of the validation pictures, on which dead kernels are looked for
SIDE = 256  # of a picture of the batch in the report, in pixels
GAP = 4  # between two of them
GREY = 128


def write_run_report(
    settings: TrainSettings,
    rows: Sequence[Mapping[str, float]],
    training: Dataset,
    validation: Dataset,
    device: torch.device,
    console: Console,
) -> None:
    """Evaluate the run's best detector once more and write ``report.html`` beside it.

    A report that cannot be written is no reason to lose a training: the console says why.

    Args:
        settings: Of the run.
        rows: Of ``results.csv``.
        training: What was learned from.
        validation: What chose the best detector.
        device: Where it is evaluated.
        console: For one line.
    """
    path = settings.output / "report.html"
    try:
        detector, metadata = load_detector(RunFolder(settings.output).best)
        predictor = Predictor(TorchBackend(detector.to(device), metadata))
        watched = [record.path for record in validation.records[:WATCHED_PICTURES]]
        health = kernel_health(detector, find_constant(detector, metadata, watched))
        report = Report(
            title=f"{settings.output.resolve().name}: {metadata.backbone} on {metadata.training_data}",
            evaluation=evaluate(predictor.predict_record, validation),
            splits={"training": training, "validation": validation},
            evaluated="validation",
            metadata=metadata,
            settings=dataclasses.asdict(settings),
            environment={"device": _device_name(device), "torch threads": torch.get_num_threads()},
            rows=rows,
            batch=draw_first_batch(training, settings, metadata.padding_colour),
            kernels=[layer._asdict() for layer in health],
            advice=advise(health),
        )
        write_report(report, path)
    except PocketdetError as error:
        console.print(f"no report: {error}", style="yellow", markup=False, soft_wrap=True)
        return
    console.print(f"report: {path}", markup=False, soft_wrap=True)


def draw_first_batch(training: Dataset, settings: TrainSettings, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The first pictures of the first epoch, prepared as they were, with their targets drawn in.

    Args:
        training: The pictures.
        settings: Of the run; its seed decides what the batch holds.
        colour: RGB of empty places.

    Returns:
        ``(H, W, 3)`` RGB, pictures in a grid.
    """
    pictures = TrainingPictures(training.records, settings, colour)
    items = next(iter(EpochBatches(len(training.records), settings.batch_size, settings.seed)))
    tiles = [_draw(pictures[item], training.class_names) for item in islice(items, BATCH_PICTURES)]
    columns = min(COLUMNS, len(tiles))
    tiles += [np.full_like(tiles[0], GREY)] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[n : n + columns], axis=1) for n in range(0, len(tiles), columns)])


def _draw(sample: Sample, class_names: tuple[str, ...]) -> NDArray[np.uint8]:
    scale = SIDE / len(sample.image)
    image = np.asarray(Image.fromarray(sample.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    scores = np.ones(len(sample.boxes), np.float32)
    targets = Detections(sample.boxes * np.float32(scale), scores, sample.class_ids, class_names, (SIDE, SIDE))
    drawn = draw(targets, image, targets.class_names)
    return np.pad(drawn, ((0, GAP), (0, GAP), (0, 0)), constant_values=GREY)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
