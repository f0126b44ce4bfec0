"""From settings and a folder of data to a run that is ready to learn, at its start or where it was stopped."""

import dataclasses
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.data import DataLoader

from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.records import Dataset
from pocketdet.models.detector import build_from_metadata
from pocketdet.training.augment import Plan
from pocketdet.training.batch_size import settle
from pocketdet.training.cross_batch_norm import cross_batch_norms
from pocketdet.training.distillation import TaughtLoss, build_learner, check_same_teacher, load_teacher
from pocketdet.training.gpu import GpuPictures, fits
from pocketdet.training.loader import EpochBatches, TrainingPictures, TrainingPlans, build_loader
from pocketdet.training.loss import build_loss
from pocketdet.training.optimizer import ExponentialMovingAverage, build_optimizer
from pocketdet.training.pictures import Sample
from pocketdet.training.processes import (
    num_processes,
    on_first,
    open_fabric,
    rank,
    synchronise_batch_norm,
)
from pocketdet.training.pseudo_labels import add_pseudo_labels
from pocketdet.training.run import Run
from pocketdet.training.run_folder import Progress, RunFolder
from pocketdet.training.settings import TrainSettings
from pocketdet.training.splits import split_data
from pocketdet.training.start import choose_start, describe, gains_from_bf16, load_start, stored_metadata, tell_data


def prepare(data: Path, settings: TrainSettings, console: Console) -> tuple[Run, Dataset, Dataset]:
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
        settings = choose_start(settings)
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
        load_start(detector, metadata, training, settings, console)
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
    if isinstance(learner.loss, TaughtLoss) and not learner.loss.has_teachers_anchors:
        told = "the teacher has other anchors than this run: it teaches by its features alone"
        console.print(told, style="yellow", soft_wrap=True)
    optimizer = build_optimizer(detector, settings)
    if adapting := list(learner.adapters.parameters()):
        optimizer.add_param_group({"params": adapting, "weight_decay": settings.weight_decay, "factor": 1.0})
    model, optimizer = fabric.setup(learner.module, optimizer)
    run = Run(
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
