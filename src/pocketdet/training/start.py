"""What a run begins with: its data, told to the person; the network's description; its start weights."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from pocketdet.core.images import read_image
from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.records import Dataset
from pocketdet.errors import DataError
from pocketdet.loading import bundled_models, bundled_start, find_weights
from pocketdet.models.balance import balance_scales
from pocketdet.models.darknet.importing import describe_darknet, read_configuration
from pocketdet.models.detector import Detector, build_darknet, default_neck, describe_levels
from pocketdet.models.from_onnx import estimate_norms
from pocketdet.models.import_weights import (
    EXPORTED_SUFFIX,
    load_start_weights,
    read_start_weights_info,
    shared_channels,
)
from pocketdet.training.own_anchors import choose_anchors
from pocketdet.training.processes import on_first
from pocketdet.training.run_folder import RunFolder
from pocketdet.training.settings import TrainSettings

NO_WEIGHTS = Path("none")
SHOWN_NAMES = 3
NORM_PICTURES = 128  # that batch norms are estimated from
# What a detector and the one that it starts from must share for the boxes to mean the same.
SAME_DETECTOR = ("width", "neck_width", "neck_convolution", "strides", "configuration")


def tell_data(training: Dataset, validation: Dataset, console: Console) -> None:
    """How many pictures and classes, and what was left out."""
    for line in (*training.skipped, *validation.skipped):
        console.print(f"left out: {line}", style="yellow", markup=False, soft_wrap=True)
    console.print(
        f"{len(training.records)} pictures to learn from, {len(validation.records)} to choose the best by, "
        f"{len(training.class_names)} classes: {', '.join(training.class_names)}",
        markup=False,
        soft_wrap=True,
    )
    learned = {record.path for record in training.records}
    seen = sum(record.path in learned for record in validation.records)
    if seen:
        console.print(
            f"{seen} of the pictures that choose the best detector are learned from as well: "
            "its AP will be too high; report one on other pictures",
            style="yellow",
            soft_wrap=True,
        )


def choose_start(settings: TrainSettings) -> TrainSettings:
    """With the file of the start weights, or None for random ones, in place of what the person said or left out."""
    start = settings.start_weights
    if start == NO_WEIGHTS:
        start = None
    elif start is None:
        start = bundled_start(settings.model, settings.width, settings.neck_width, settings.padding)
    elif start.is_dir() or str(start) in bundled_models():
        start = find_weights(start)
    return dataclasses.replace(settings, start_weights=start)


def describe(data: Path, training: Dataset, settings: TrainSettings, console: Console) -> ModelMetadata:
    """What the file of the detector will say of it."""
    from pocketdet import __version__

    network = _network(training, settings)
    if settings.start_weights is not None:
        network = _as_started(network, settings.start_weights, settings, console)
    return dataclasses.replace(
        network,
        anchors=on_first(lambda: choose_anchors(training.records, settings, network.anchors, console)),
        scale_xy=(1.0,) * len(network.strides) if settings.grid_sensitivity is False else network.scale_xy,
        training_data=f"{data.resolve().name} ({', '.join(settings.train_splits)})"
        + (", and pictures that a teacher labelled" if settings.pseudo_label is not None else ""),
        pocketdet_version=__version__,
    )


def _as_started(
    network: ModelMetadata, start_weights: Path, settings: TrainSettings, console: Console
) -> ModelMetadata:
    """With what the start weights were trained with; those of the same detector bring their decoding along, too."""
    start = read_start_weights_info(start_weights)
    network = dataclasses.replace(
        network,
        padding=settings.padding or start.padding,
        mean=start.mean,
        std=start.std,
        channels=shared_channels(start.detector, network),
    )
    theirs = start.detector
    if theirs is None or theirs.backbone != network.backbone:
        return network
    network = dataclasses.replace(network, se_before_activation=theirs.se_before_activation)
    if any(getattr(theirs, name) != getattr(network, name) for name in SAME_DETECTOR):
        return network
    if settings.anchors is None and theirs.anchors != network.anchors:
        height, width = theirs.input_size
        console.print(
            f"anchors: those of {start_weights.name}, a detector for {height} x {width} pixels; --anchors yolov4 or "
            "kmeans chooses others",
            markup=False,
            soft_wrap=True,
        )
    return dataclasses.replace(
        network,
        anchors=theirs.anchors if settings.anchors is None else network.anchors,
        scale_xy=theirs.scale_xy if settings.grid_sensitivity is None else network.scale_xy,
        padding_colour=theirs.padding_colour,
    )


def _network(training: Dataset, settings: TrainSettings) -> ModelMetadata:
    """The network, with its own anchors and grid sensitivity."""
    size = (settings.size, settings.size)
    if Path(settings.model).suffix == ".cfg":
        with torch.device("meta"):
            detector = build_darknet(read_configuration(Path(settings.model)), file=settings.model)
        return describe_darknet(detector, training.class_names, size)
    style = default_neck(settings.model)
    metadata = ModelMetadata(
        backbone=settings.model,
        width=settings.width,
        neck_width=settings.neck_width,
        neck_activation=settings.neck_activation or style.activation,
        neck_convolution=settings.neck_convolution or style.convolution,
        padding=settings.padding or "symmetric",
        class_names=training.class_names,
        input_size=size,
    )
    return describe_levels(metadata)


def stored_metadata(saved: dict[str, Any], folder: RunFolder, training: Dataset) -> ModelMetadata:
    """What the checkpoint says of its detector, if the data still fit it."""
    metadata = ModelMetadata.from_json(saved["metadata"], str(folder.last))
    if metadata.class_names != training.class_names:
        raise DataError(
            f"{folder.last} learned the classes {', '.join(metadata.class_names)}, and the data have "
            f"{', '.join(training.class_names)}; resume with the data that the run began with"
        )
    return metadata


def load_start(
    detector: Detector, metadata: ModelMetadata, training: Dataset, settings: TrainSettings, console: Console
) -> None:
    """Load the start weights and tell what did not fit."""
    if settings.start_weights is None:
        console.print(
            "no start weights: the network learns to see from these pictures alone, which takes many more of them "
            "(--start-weights gives some; for mobilenet_v2 there are bundled ones)",
            style="yellow",
            soft_wrap=True,
        )
        return
    report = load_start_weights(detector, settings.start_weights)
    if settings.start_weights.suffix == EXPORTED_SUFFIX:
        estimate_norms(detector, letterboxed_pictures(training, metadata))
    balance_scales(detector.backbone)
    console.print(f"start weights: {len(report.loaded)} tensors from {settings.start_weights.name}", markup=False)
    activation = settings.neck_activation or default_neck(settings.model).activation
    if report.detector is not None and report.detector.neck_activation != activation:
        console.print(
            f"the neck of the start weights was trained with {report.detector.neck_activation}, this one has "
            f"{activation}: choose --neck-activation {report.detector.neck_activation}",
            style="yellow",
            soft_wrap=True,
        )
    anew = [name for name in report.mismatched if ".classes." in name]
    if anew:
        console.print("its class outputs begin anew, because the classes are others")
    misfits = [name for name in report.mismatched if name not in anew]
    misfits += [name for name in report.missing if name.startswith("backbone.")]
    if misfits:
        more = f" and {len(misfits) - SHOWN_NAMES} more" if len(misfits) > SHOWN_NAMES else ""
        console.print(
            f"start weights do not fit, so these begin at random: {', '.join(misfits[:SHOWN_NAMES])}{more}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def letterboxed_pictures(training: Dataset, metadata: ModelMetadata) -> Tensor:
    """``(N, 3, H, W)`` bytes, letterboxed, evenly spread."""
    records = training.records[:: -(-len(training.records) // NORM_PICTURES)]
    pictures = (read_image(record.path, at_least=metadata.input_size) for record in records)
    letterboxed = [metadata.letterbox(p.size).apply(p.pixels, metadata.padding_colour) for p in pictures]
    return torch.from_numpy(np.stack(letterboxed)).permute(0, 3, 1, 2)


def gains_from_bf16() -> bool:
    """Whether bfloat16 has instructions of its own here; without them it is slower than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
