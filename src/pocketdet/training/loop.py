"""The training loop, on Lightning Fabric, to be read in one go."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.records import Dataset
from pocketdet.errors import SettingsError
from pocketdet.evaluation import evaluate
from pocketdet.models.checkpoint import TorchBackend, save_detector
from pocketdet.models.detector import Detector, build_from_metadata
from pocketdet.models.kernel_health import count_dead
from pocketdet.runtime.predictor import Predictor
from pocketdet.training.adversarial import hide_objects
from pocketdet.training.assigner import Targets
from pocketdet.training.augment import Plan
from pocketdet.training.batch_size import settle
from pocketdet.training.chance import input_size, is_attacked, resize
from pocketdet.training.cross_batch_norm import cross_batch_norms, end_step
from pocketdet.training.distillation import build_learner, check_same_teacher, load_teacher, term_names
from pocketdet.training.gpu import GpuPictures, fits
from pocketdet.training.loader import Batch, EpochBatches, TrainingPictures, TrainingPlans, build_loader
from pocketdet.training.loggers import open_loggers
from pocketdet.training.loss import build_loss
from pocketdet.training.memory import keep_freed_memory
from pocketdet.training.optimizer import ExponentialMovingAverage, build_optimizer, learning_rate, set_learning_rate
from pocketdet.training.pictures import Sample
from pocketdet.training.processes import (
    join_processes,
    num_processes,
    on_first,
    open_fabric,
    rank,
    seed_batch,
    sum_over_processes,
    synchronise_batch_norm,
)
from pocketdet.training.pseudo_labels import add_pseudo_labels
from pocketdet.training.reporting import note_ctrl_c, progress_bar, report_epoch
from pocketdet.training.run_folder import Progress, RunFolder
from pocketdet.training.run_report import write_run_report
from pocketdet.training.settings import TrainSettings
from pocketdet.training.splits import split_data
from pocketdet.training.start import describe, gains_from_bf16, load_start, stored_metadata, tell_data

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
    keep_freed_memory()
    join_processes()
    console = Console(stderr=True, highlight=False, quiet=rank() > 0)
    run, training, validation = _prepare(data, settings, console)
    settings, progress = run.settings, run.progress
    with (
        note_ctrl_c(console) as interrupted,
        progress_bar(console) as bar,
        open_loggers(run.folder.path, progress.epoch + 1, settings) if rank() == 0 else nullcontext() as loggers,
    ):
        done = progress.epoch * len(run.batches) + progress.batch
        task = bar.add_task("", total=settings.epochs * len(run.batches), completed=done)
        while progress.epoch < settings.epochs and not has_stalled(progress.rows, settings.patience):
            bar.update(task, description=f"epoch {progress.epoch + 1}/{settings.epochs}")
            if not run.train_epoch(lambda: bar.advance(task), interrupted):
                console.print(_how_to_go_on(data, run), markup=False, soft_wrap=True)
                raise KeyboardInterrupt
            row = _close_epoch(run)
            if progress.epoch % settings.evaluate_every == 0 or progress.epoch == settings.epochs:
                row |= on_first(lambda: run.evaluate(validation))
            progress.rows.append(row)
            if loggers is not None:
                report_epoch(row, console, loggers)
                run.folder.write_results(progress.rows)
                run.save()
    if rank() == 0:
        write_run_report(settings, progress.rows, training, validation, run.fabric.device, console)

    best = max((row for row in progress.rows if "AP" in row), key=lambda row: row["AP"])
    return TrainResult(run.folder.best, len(progress.rows), best["AP"], best["AP50"])


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a run changes as it goes, and where it keeps it."""

    folder: RunFolder
    settings: TrainSettings
    metadata: ModelMetadata
    progress: Progress
    batches: EpochBatches
    loader: DataLoader[Sample] | DataLoader[Plan]
    gpu_pictures: GpuPictures | None  # draws the batches where the pictures lie on a GPU
    fabric: Fabric
    detector: Detector
    average: ExponentialMovingAverage
    model: _FabricModule  # what learns, as Fabric runs it: the detector, or with a teacher a ``Student`` around it
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    adapters: nn.ModuleList  # of a ``Student``; else empty
    teacher: str  # its SHA-256, or nothing

    @property
    def steps(self) -> int:
        """Of the optimizer, in an epoch; the last of them may see fewer batches."""
        return math.ceil(len(self.batches) / self.settings.accumulate)

    def train_epoch(self, advance: Callable[[], None], interrupted: Sequence[object]) -> bool:
        """Train from where the run is to the end of the epoch.

        Args:
            advance: Called after every batch.
            interrupted: Not empty once the run shall stop.

        Returns:
            Whether it came to the end; else it was to stop, on whichever process, and a checkpoint is written.
        """
        progress, settings = self.progress, self.settings
        self.batches.epoch, self.batches.first_batch = progress.epoch, progress.batch
        _set_mode(self.detector, progress.epoch < settings.freeze_epochs, settings.freeze_batch_norm)
        started = last_save = time.monotonic()
        sums = torch.zeros(len(term_names(settings)) + 1, device=self.fabric.device)
        for batch in self.loader:
            seed_batch(settings.seed, progress.epoch, progress.batch)
            ends_step = (progress.batch + 1) % settings.accumulate == 0 or progress.batch + 1 == len(self.batches)
            sums += self._learn(batch, ends_step)
            progress.batch += 1
            advance()
            if not ends_step:
                continue
            self._step(sums)
            sums.zero_()
            now = time.monotonic()
            stops = bool(sum_over_processes(torch.tensor(len(interrupted))))
            is_due = now - last_save > 60 * settings.checkpoint_minutes and progress.batch < len(self.batches)
            if stops or is_due:
                progress.seconds += now - started
                started = last_save = now
                self.save()
            if stops:
                return False
        progress.seconds += time.monotonic() - started
        return True

    def _learn(self, batch: Batch, ends_step: bool) -> Tensor:
        """Add a batch's gradients, not yet divided by the positives of the step.

        Returns:
            The terms of the loss, not divided either, and the number of positives.
        """
        images = self._images(batch)
        targets = Targets(*(part.to(self.fabric.device) for part in batch.targets))
        progress, settings = self.progress, self.settings
        step = progress.epoch * self.steps + progress.batch // settings.accumulate
        self.detector.neck.drop.probability = settings.dropblock * step / (settings.epochs * self.steps)
        images, targets = resize(images, targets, input_size(settings, step))
        if is_attacked(settings, progress.epoch, progress.batch):
            images = hide_objects(self.detector, images, self.fabric)
        with self.fabric.no_backward_sync(self.model, enabled=not ends_step):
            *terms, positives = self.loss(self.model(images), targets)
            terms = torch.stack(terms) * positives.clamp(min=1)
            self.fabric.backward(terms[0])
        return torch.cat((terms.detach(), positives[None]))

    def _images(self, batch: Batch) -> Tensor:
        """``(B, 3, H, W)`` in 0 to 1."""
        if batch.images is not None:
            return batch.images.to(self.fabric.device, memory_format=torch.channels_last).float() / 255
        assert self.gpu_pictures is not None
        assert batch.plans is not None
        return self.gpu_pictures.render(batch.plans)

    def _step(self, sums: Tensor) -> None:
        """Divide gradients by the positives of all batches and processes of the step, and change the weights.

        So it does not matter into how many parts a batch was cut, but for the statistics of batch norm.
        """
        progress = self.progress
        step = progress.epoch * self.steps + (progress.batch - 1) // self.settings.accumulate
        set_learning_rate(self.optimizer, learning_rate(step, self.steps, self.settings))
        *terms, positives = sum_over_processes(sums).tolist()
        terms = [term / max(1.0, positives) for term in terms]
        _check_finite(terms[0], progress, self.settings)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        torch._foreach_mul_(gradients, num_processes() / max(1.0, positives))  # DDP has taken the mean over processes
        self.fabric.clip_gradients(self.model, self.optimizer, max_norm=MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        end_step(self.detector)
        self.average.update(self.detector, step)
        progress.sums = [a + b for a, b in zip(progress.sums or [0.0] * len(terms), terms, strict=True)]

    def save(self) -> None:
        """Write, on the first process, all that is needed to go on bit for bit."""
        if rank() > 0:
            return
        state = {
            "detector": self.detector.state_dict(),
            "average": self.average.detector.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "metadata": self.metadata.to_json(),
            "adapters": self.adapters.state_dict(),
            "teacher": self.teacher,
        }
        self.folder.save(self.progress, state, self.settings)

    def restore(self, saved: dict[str, Any]) -> None:
        """Put back what ``save`` wrote."""
        self.detector.load_state_dict(saved["detector"])
        self.average.detector.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.adapters.load_state_dict(saved.get("adapters", {}))

    def evaluate(self, validation: Dataset) -> dict[str, float]:
        """Measure the average, and keep it if it is the best so far."""
        result = evaluate(Predictor(TorchBackend(self.average.detector, self.metadata)).predict_record, validation)
        if result.ap > self.progress.best_ap:
            self.progress.best_ap = result.ap
            metrics = {"validation AP": round(result.ap, 4), "validation AP50": round(result.ap50, 4)}
            save_detector(self.folder.best, self.average.detector, dataclasses.replace(self.metadata, metrics=metrics))
        return {"AP": result.ap, "AP50": result.ap50}


def _prepare(data: Path, settings: TrainSettings, console: Console) -> tuple[_Run, Dataset, Dataset]:
    """A run at its start or where its checkpoint was written; what it learns from; what chooses its best detector."""
    folder = RunFolder(settings.output)
    progress, saved = Progress(), None
    if settings.resume:
        progress, saved, stored, notes = on_first(folder.load)
        settings = dataclasses.replace(stored, output=settings.output)
        for note in notes:
            console.print(note, style="yellow", markup=False, soft_wrap=True)
    else:
        on_first(folder.start)
    training, validation = split_data(data, settings)
    tell_data(training, validation, console)
    teacher = load_teacher(settings.teacher, training.class_names) if settings.teacher is not None else None
    if saved is not None and teacher is not None:
        check_same_teacher(teacher, saved)
    if settings.pseudo_label is not None and teacher is not None:
        work = partial(add_pseudo_labels, training, validation, teacher, settings, console, saved is not None)
        training = on_first(work)
    metadata = (
        describe(data, training, settings, console) if saved is None else stored_metadata(saved, folder, training)
    )
    torch.manual_seed(settings.seed)
    detector = build_from_metadata(metadata)
    if saved is None:
        load_start(detector, settings, console)
    if settings.cross_batch_norm:
        cross_batch_norms(detector)
    use_bf16 = settings.bf16 if settings.bf16 is not None else on_first(gains_from_bf16)
    fabric = open_fabric(use_bf16, settings.freeze_epochs > 0)
    detector.to(fabric.device).to(memory_format=torch.channels_last)
    average = ExponentialMovingAverage(detector, settings.ema)
    if settings.sync_batch_norm:
        synchronise_batch_norm(detector, fabric.device)
    loss = build_loss(metadata, settings, training.records).to(fabric.device)
    if saved is None:
        settings = settle(settings, detector, loss, fabric, training, console)
    batches = EpochBatches(len(training.records), settings.batch_size, settings.seed, rank(), num_processes())
    loader, gpu_pictures = _load_pictures(training, settings, metadata, batches, fabric.device)
    learner = build_learner(detector, metadata, teacher, loss, settings.teacher_weight)
    optimizer = build_optimizer(detector, settings)
    if adapting := list(learner.adapters.parameters()):
        optimizer.add_param_group({"params": adapting, "weight_decay": settings.weight_decay, "factor": 1.0})
    model, optimizer = fabric.setup(learner.module, optimizer)
    run = _Run(
        *(folder, settings, metadata, progress, batches, loader, gpu_pictures, fabric, detector, average, model),
        *(optimizer, learner.loss, learner.adapters, "" if teacher is None else teacher.sha256),
    )
    if saved is not None:
        run.restore(saved)
    return run, training, validation


def _load_pictures(
    training: Dataset, settings: TrainSettings, metadata: ModelMetadata, batches: EpochBatches, device: torch.device
) -> tuple[DataLoader[Sample] | DataLoader[Plan], GpuPictures | None]:
    """The loader, and the pictures in the GPU's memory where they fit."""
    if not fits(len(training.records), settings.size, device):
        pictures = TrainingPictures(training.records, settings, metadata.padding_colour)
        return build_loader(pictures, batches, settings.workers), None
    gpu_pictures = GpuPictures(training.records, settings.size, metadata.padding_colour, device)
    return build_loader(TrainingPlans(gpu_pictures.sources, settings), batches, settings.workers), gpu_pictures


def _check_finite(loss: float, progress: Progress, settings: TrainSettings) -> None:
    if not math.isfinite(loss):
        raise SettingsError(
            f"the loss is {loss} in epoch {progress.epoch + 1}, batch {progress.batch}; "
            f"start again with a lower learning_rate than {settings.peak_learning_rate:.3g}"
        )


def _how_to_go_on(data: Path, run: _Run) -> str:
    return (
        f"stopped in epoch {run.progress.epoch + 1}; nothing is lost. Go on with: "
        f"pocketdet train {data} --output {run.settings.output} --resume"
    )


def _set_mode(detector: Detector, is_frozen: bool, freezes_batch_norm: bool) -> None:
    """Training mode; a frozen backbone keeps its weights and the statistics of its batch norm."""
    detector.train()
    detector.backbone.requires_grad_(not is_frozen)
    detector.backbone.train(not (is_frozen or freezes_batch_norm))


def _close_epoch(run: _Run) -> dict[str, float]:
    """Count the epoch and give its row of results."""
    progress = run.progress
    progress.epoch += 1
    names = term_names(run.settings)
    means = {name: total / run.steps for name, total in zip(names, progress.sums, strict=True)}
    rate = learning_rate(progress.epoch * run.steps - 1, run.steps, run.settings)
    row = {"epoch": progress.epoch, "learning_rate": rate, **means, "seconds": round(progress.seconds, 1)}
    row["dead_kernels"] = count_dead(run.average.detector)
    progress.batch, progress.sums, progress.seconds = 0, [], 0.0
    return row


def has_stalled(rows: Sequence[dict[str, float]], patience: int) -> bool:
    """Whether the last ``patience`` evaluations brought no better AP; never with a patience of 0."""
    scores = [row["AP"] for row in rows if "AP" in row]
    return bool(scores) and 0 < patience < len(scores) - scores.index(max(scores))
