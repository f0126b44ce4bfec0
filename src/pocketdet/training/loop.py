"""The training loop, on Lightning Fabric, to be read in one go."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.console import Console

from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.load import has_split, load_dataset
from pocketdet.datasets.records import Dataset, Record
from pocketdet.errors import DataError, SettingsError
from pocketdet.evaluation import evaluate
from pocketdet.models.checkpoint import TorchBackend, save_detector
from pocketdet.models.detector import Detector, build_from_metadata
from pocketdet.models.import_weights import load_start_weights, read_start_weights_info
from pocketdet.runtime.predictor import Predictor
from pocketdet.training.assigner import Targets
from pocketdet.training.loader import EpochBatches, TrainingPictures, build_loader
from pocketdet.training.loss import DetectionLoss, Losses
from pocketdet.training.optimizer import ExponentialMovingAverage, build_optimizer, learning_rate, set_learning_rate
from pocketdet.training.reporting import note_ctrl_c, open_tensorboard, progress_bar, report_epoch
from pocketdet.training.run_folder import Progress, RunFolder
from pocketdet.training.run_report import write_run_report
from pocketdet.training.settings import TrainSettings

HOLDOUT = "holdout"
HOLDOUT_SHARE = 0.1
MAX_GRADIENT_NORM = 10.0


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Args:
        best: The detector with the best AP on the validation pictures.
        epochs: How many were trained.
        ap: Of ``best``, COCO's AP at IoU 0.50:0.95 on the validation pictures.
        ap50: Of the same epoch, at IoU 0.50.
    """

    best: Path
    epochs: int
    ap: float
    ap50: float

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return {"best": str(self.best), "epochs": self.epochs, "AP": self.ap, "AP50": self.ap50}


def train(data: Path, settings: TrainSettings) -> TrainResult:
    """Train a detector.

    Args:
        data: A folder in VOC, COCO or YOLO layout, or its ``data.yaml``.
        settings: With ``resume`` all others come from the run in the output folder.

    Raises:
        DataError: Nothing to train on, or a class or split that the labels do not know.
        SettingsError: The output folder holds a run already.
        ModelFileError: Start weights or checkpoint cannot be used.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
    """
    console = Console(stderr=True, highlight=False)
    folder = RunFolder(settings.output)
    progress, saved = Progress(), None
    if settings.resume:
        progress, saved, stored = folder.load()
        settings = dataclasses.replace(stored, output=settings.output)
    else:
        folder.start()
    training, validation = _split_data(data, settings)
    _tell_data(training, validation, console)

    metadata = _describe(data, training, settings) if saved is None else _stored_metadata(saved, folder, training)
    torch.manual_seed(settings.seed)
    detector = build_from_metadata(metadata)
    if saved is None:
        _load_start(detector, settings, console)
    use_bf16 = settings.bf16 if settings.bf16 is not None else _gains_from_bf16()
    fabric = Fabric(accelerator="auto", devices=1, precision="bf16-mixed" if use_bf16 else "32-true")
    detector.to(fabric.device).to(memory_format=torch.channels_last)
    average = ExponentialMovingAverage(detector, settings.ema)
    loss = DetectionLoss(metadata, settings.label_smoothing).to(fabric.device)
    model, optimizer = fabric.setup(detector, build_optimizer(detector, settings))
    run = _Run(folder, settings, metadata, progress, detector, average, optimizer)
    if saved is not None:
        run.restore(saved)

    pictures = TrainingPictures(training.records, settings, metadata.padding_colour)
    batches = EpochBatches(len(training.records), settings.batch_size, settings.seed)
    loader = build_loader(pictures, batches, settings.workers)
    steps = len(batches)
    with (
        note_ctrl_c() as interrupted,
        progress_bar(console) as bar,
        open_tensorboard(folder.path, progress.epoch + 1) as board,
    ):
        task = bar.add_task("", total=settings.epochs * steps, completed=progress.epoch * steps + progress.batch)
        while progress.epoch < settings.epochs:
            batches.epoch, batches.first_batch = progress.epoch, progress.batch
            _set_mode(detector, is_frozen=progress.epoch < settings.freeze_epochs)
            bar.update(task, description=f"epoch {progress.epoch + 1}/{settings.epochs}")
            started = last_save = time.monotonic()
            for batch in loader:
                step = progress.epoch * steps + progress.batch
                rate = learning_rate(step, steps, settings)
                set_learning_rate(optimizer, rate)
                images = batch.images.to(fabric.device, memory_format=torch.channels_last).float() / 255
                losses = loss(model(images), Targets(*(part.to(fabric.device) for part in batch.targets)))
                _check_finite(losses, progress, settings)
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(losses.total)
                fabric.clip_gradients(model, optimizer, max_norm=MAX_GRADIENT_NORM)
                optimizer.step()
                average.update(detector, step)
                progress.sums = [a + b.item() for a, b in zip(progress.sums, losses, strict=True)]
                progress.batch += 1
                bar.advance(task)
                now = time.monotonic()
                if interrupted or (now - last_save > 60 * settings.checkpoint_minutes and progress.batch < steps):
                    progress.seconds += now - started
                    started = last_save = now
                    run.save()
                if interrupted:
                    console.print(_how_to_go_on(data, run), markup=False, soft_wrap=True)
                    raise KeyboardInterrupt
            progress.seconds += time.monotonic() - started
            row = _close_epoch(progress, steps, rate)
            if progress.epoch % settings.evaluate_every == 0 or progress.epoch == settings.epochs:
                row |= run.evaluate(validation)
            progress.rows.append(row)
            report_epoch(row, console, board)
            folder.write_results(progress.rows)
            run.save()

    write_run_report(settings, progress.rows, training, validation, fabric.device, console)
    best = max((row for row in progress.rows if "AP" in row), key=lambda row: row["AP"])
    return TrainResult(folder.best, len(progress.rows), best["AP"], best["AP50"])


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a run changes as it goes, and where it keeps it."""

    folder: RunFolder
    settings: TrainSettings
    metadata: ModelMetadata
    progress: Progress
    detector: Detector
    average: ExponentialMovingAverage
    optimizer: torch.optim.Optimizer

    def save(self) -> None:
        """Write all that is needed to go on bit for bit."""
        state = {
            "detector": self.detector.state_dict(),
            "average": self.average.detector.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "metadata": self.metadata.to_json(),
        }
        self.folder.save(self.progress, state, self.settings)

    def restore(self, saved: dict[str, Any]) -> None:
        """Put back what ``save`` wrote."""
        self.detector.load_state_dict(saved["detector"])
        self.average.detector.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])

    def evaluate(self, validation: Dataset) -> dict[str, float]:
        """Measure the average, and keep it if it is the best so far."""
        result = evaluate(Predictor(TorchBackend(self.average.detector, self.metadata)).predict_record, validation)
        if result.ap > self.progress.best_ap:
            self.progress.best_ap = result.ap
            metrics = {"validation AP": round(result.ap, 4), "validation AP50": round(result.ap50, 4)}
            save_detector(self.folder.best, self.average.detector, dataclasses.replace(self.metadata, metrics=metrics))
        return {"AP": result.ap, "AP50": result.ap50}


def _tell_data(training: Dataset, validation: Dataset, console: Console) -> None:
    for line in (*training.skipped, *validation.skipped):
        console.print(f"left out: {line}", style="yellow", markup=False, soft_wrap=True)
    console.print(
        f"{len(training.records)} pictures to learn from, {len(validation.records)} to choose the best by, "
        f"{len(training.class_names)} classes: {', '.join(training.class_names)}",
        markup=False,
        soft_wrap=True,
    )


def _check_finite(losses: Losses, progress: Progress, settings: TrainSettings) -> None:
    if not torch.isfinite(losses.total):
        raise SettingsError(
            f"the loss is {losses.total.item()} in epoch {progress.epoch + 1}, batch {progress.batch + 1}; "
            f"start again with a lower learning_rate than {settings.learning_rate}"
        )


def _how_to_go_on(data: Path, run: _Run) -> str:
    return (
        f"stopped in epoch {run.progress.epoch + 1}; nothing is lost. Go on with: "
        f"pocketdet train {data} --output {run.settings.output} --resume"
    )


def _split_data(data: Path, settings: TrainSettings) -> tuple[Dataset, Dataset]:
    """Pictures to learn from and pictures to choose the best checkpoint by; never the same ones."""
    training, validation = _find_splits(data, settings)
    if len(training.records) < 2 or not _has_objects(training):
        raise DataError(f"{data}: nothing to learn from; at least two pictures and one labelled object are needed")
    if not _has_objects(validation):
        raise DataError(
            f"{data}: no labelled object in the {len(validation.records)} pictures that choose the best checkpoint; "
            "name another split by --val-split"
        )
    return training, validation


def _has_objects(dataset: Dataset) -> bool:
    return any(len(record.boxes) for record in dataset.records)


def _find_splits(data: Path, settings: TrainSettings) -> tuple[Dataset, Dataset]:
    training = load_dataset(data, settings.train_splits, settings.classes)
    split = settings.val_split or ("val" if has_split(data, "val") else HOLDOUT)
    if split != HOLDOUT:
        return training, load_dataset(data, (split,), training.class_names)
    order = np.random.default_rng(settings.seed).permutation(len(training.records))
    held = set(order[: max(1, round(HOLDOUT_SHARE * len(order)))].tolist())

    def part(chosen: bool) -> tuple[Record, ...]:
        return tuple(record for index, record in enumerate(training.records) if (index in held) == chosen)

    return dataclasses.replace(training, records=part(False)), Dataset(part(True), training.class_names)


def _describe(data: Path, training: Dataset, settings: TrainSettings) -> ModelMetadata:
    from pocketdet import __version__

    metadata = ModelMetadata(
        backbone=settings.model,
        width=settings.width,
        neck_width=settings.neck_width,
        padding=settings.padding or "symmetric",
        class_names=training.class_names,
        input_size=(settings.size, settings.size),
        training_data=f"{data.resolve().name} ({', '.join(settings.train_splits)})",
        pocketdet_version=__version__,
    )
    if settings.start_weights is None:
        return metadata
    start = read_start_weights_info(settings.start_weights)
    return dataclasses.replace(metadata, padding=settings.padding or start.padding, mean=start.mean, std=start.std)


def _stored_metadata(saved: dict[str, Any], folder: RunFolder, training: Dataset) -> ModelMetadata:
    """What the checkpoint says of its detector, if the data still fit it."""
    metadata = ModelMetadata.from_json(saved["metadata"], str(folder.last))
    if metadata.class_names != training.class_names:
        raise DataError(
            f"{folder.last} learned the classes {', '.join(metadata.class_names)}, and the data have "
            f"{', '.join(training.class_names)}; resume with the data that the run began with"
        )
    return metadata


def _load_start(detector: Detector, settings: TrainSettings, console: Console) -> None:
    if settings.start_weights is None:
        console.print(
            "no start weights: the network learns to see from these pictures alone, which takes many more of them",
            style="yellow",
        )
        return
    report = load_start_weights(detector, settings.start_weights)
    console.print(f"start weights: {len(report.loaded)} tensors from {settings.start_weights.name}", markup=False)
    misfits = [*report.mismatched, *(name for name in report.missing if name.startswith("backbone."))]
    if misfits:
        console.print(f"start weights do not fit: {', '.join(map(str, misfits))}", style="yellow", markup=False)


def _gains_from_bf16() -> bool:
    """Whether bfloat16 has instructions of its own here; without them it is slower than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def _set_mode(detector: Detector, is_frozen: bool) -> None:
    """Training mode; a frozen backbone keeps its weights and the statistics of its batch norm."""
    detector.train()
    detector.backbone.requires_grad_(not is_frozen)
    detector.backbone.train(not is_frozen)


def _close_epoch(progress: Progress, steps: int, rate: float) -> dict[str, float]:
    """Count the epoch and give its row of results."""
    names = ("loss", "box_loss", "objectness_loss", "class_loss")
    means = {name: total / steps for name, total in zip(names, progress.sums, strict=True)}
    progress.epoch += 1
    row = {"epoch": progress.epoch, "learning_rate": rate, **means, "seconds": round(progress.seconds, 1)}
    progress.batch, progress.sums, progress.seconds = 0, [0.0] * 4, 0.0
    return row
