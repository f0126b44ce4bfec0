"""One run: what it changes as it goes, its epochs and steps, where it keeps them."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.records import Dataset
from pocketdet.errors import SettingsError
from pocketdet.evaluation import evaluate
from pocketdet.models.checkpoint import TorchBackend, save_detector
from pocketdet.models.detector import Detector
from pocketdet.models.kernel_health import count_dead
from pocketdet.runtime.predictor import Predictor
from pocketdet.training.adversarial import hide_objects
from pocketdet.training.assigner import Targets
from pocketdet.training.augment import Plan
from pocketdet.training.chance import input_size, is_attacked, resize
from pocketdet.training.cross_batch_norm import end_step
from pocketdet.training.distillation import term_names
from pocketdet.training.gpu import GpuPictures
from pocketdet.training.loader import Batch, EpochBatches
from pocketdet.training.optimizer import ExponentialMovingAverage, learning_rate, set_learning_rate
from pocketdet.training.pictures import Sample
from pocketdet.training.processes import (
    num_processes,
    rank,
    seed_batch,
    sum_over_processes,
)
from pocketdet.training.run_folder import Progress, RunFolder
from pocketdet.training.settings import TrainSettings

MAX_GRADIENT_NORM = 10.0


@dataclasses.dataclass(frozen=True)
class Run:
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

    def close_epoch(self) -> dict[str, float]:
        """Count the epoch and give its row of results."""
        progress = self.progress
        progress.epoch += 1
        names = term_names(self.settings)
        means = {name: total / self.steps for name, total in zip(names, progress.sums, strict=True)}
        rate = learning_rate(progress.epoch * self.steps - 1, self.steps, self.settings)
        row = {"epoch": progress.epoch, "learning_rate": rate, **means, "seconds": round(progress.seconds, 1)}
        row["dead_kernels"] = count_dead(self.average.detector)
        progress.batch, progress.sums, progress.seconds = 0, [], 0.0
        return row

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


def _check_finite(loss: float, progress: Progress, settings: TrainSettings) -> None:
    if not math.isfinite(loss):
        raise SettingsError(
            f"the loss is {loss} in epoch {progress.epoch + 1}, batch {progress.batch}; "
            f"start again with a lower learning_rate than {settings.peak_learning_rate:.3g}"
        )


def _set_mode(detector: Detector, is_frozen: bool, freezes_batch_norm: bool) -> None:
    """Training mode; a frozen backbone keeps its weights and the statistics of its batch norm."""
    detector.train()
    detector.backbone.requires_grad_(not is_frozen)
    detector.backbone.train(not (is_frozen or freezes_batch_norm))
