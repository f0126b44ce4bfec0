"""What a person sets for a training run. Free of torch, so that ``pocketdet train --help`` works without it."""

import dataclasses
from pathlib import Path
from typing import Literal

from pocketdet.errors import SettingsError


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run.

    Args:
        model: Backbone: mobilenet_v1, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small, or a V3 with _minimalistic.
        width: Multiplier of the backbone's channels.
        neck_width: Multiplier of the channels of neck and head.
        padding: Of the backbone: TensorFlow's "same" or PyTorch's "symmetric"; start weights carry the right one.
        size: Height and width of the input in pixels, a multiple of 32.
        epochs: Passes over the training pictures.
        batch_size: Pictures a batch; where torchrun started several processes they share it.
        accumulate: Batches a step of the optimizer.
        optimizer: AdamW, or SGD with momentum.
        learning_rate: At the end of the warmup, for neck and head.
        backbone_learning_rate: Factor on the learning rate for the backbone.
        weight_decay: On convolution weights only.
        warmup_epochs: Epochs in which the learning rate rises.
        freeze_epochs: First epochs with a fixed backbone, its batch norm fixed too.
        freeze_batch_norm: The backbone's batch norm keeps the statistics of the start weights in all epochs.
        mosaic: Probability that a training picture is a mosaic of four.
        plain_epochs: Share of the epochs, at the end, without mosaic.
        flip: Probability of a mirrored picture.
        label_smoothing: 0 is off; e moves every class target by e / 2 towards one half.
        ema: Decay of the average of the weights; 0 is off.
        start_weights: A safetensors file with weights of the backbone or of a whole detector.
        teacher: A larger pocketdet detector with the same classes to learn from, besides the labels: a .safetensors
            checkpoint or the folder of a training run.
        teacher_weight: Of the teacher's term in the loss.
        pseudo_label: A folder of pictures without labels, which the teacher labels before the first step.
        pseudo_score: Only what the teacher finds with a score above this becomes a label, 0 to 1.
        train_splits: Splits to learn from.
        val_split: Split that chooses the best checkpoint; "holdout" keeps a tenth of the training pictures for it. By
            default val where there is one, else holdout.
        classes: Only these classes; by default all that the labels list.
        bf16: Compute in bfloat16; by default where the machine gains from it.
        sync_batch_norm: Batch norm over the pictures of all processes; GPUs only.
        workers: Processes that prepare pictures, for each training process; 0 prepares them in the training process.
        seed: The same seed, data and machine give the same detector.
        evaluate_every: Epochs between two evaluations; the last epoch is always evaluated.
        patience: Stop after so many evaluations without a better AP; 0 is off.
        checkpoint_minutes: Write a checkpoint after so many minutes, besides the one after every epoch.
        output: Folder of the run: checkpoints, results.csv, TensorBoard.
        resume: Go on from the last checkpoint in the output folder.
    """

    model: str = "mobilenet_v2"
    width: float = 1.0
    neck_width: float = 0.5
    padding: Literal["same", "symmetric"] | None = None
    size: int = 416
    epochs: int = 100
    batch_size: int = 16
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1.5e-3
    backbone_learning_rate: float = 0.3
    weight_decay: float = 0.02
    warmup_epochs: float = 1.0
    freeze_epochs: int = 0
    freeze_batch_norm: bool = False
    mosaic: float = 0.7
    plain_epochs: float = 0.3
    flip: float = 0.5
    label_smoothing: float = 0.0
    ema: float = 0.998
    start_weights: Path | None = None
    teacher: Path | None = None
    teacher_weight: float = 1.0
    pseudo_label: Path | None = None
    pseudo_score: float = 0.5
    train_splits: tuple[str, ...] = ("train",)
    val_split: str | None = None
    classes: tuple[str, ...] = ()
    bf16: bool | None = None
    sync_batch_norm: bool = False
    workers: int = 0
    seed: int = 0
    evaluate_every: int = 5
    patience: int = 0
    checkpoint_minutes: float = 5.0
    output: Path = Path("runs/train")
    resume: bool = False

    def __post_init__(self) -> None:
        if self.size < 64 or self.size % 32:
            raise SettingsError(f"size is {self.size}; it must be a multiple of 32, from 64 on")
        for name in ("epochs", "batch_size", "accumulate", "evaluate_every"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("workers", "patience"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("mosaic", "plain_epochs", "flip", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if not 0 <= self.ema < 1:
            raise SettingsError(f"ema is {self.ema}; it must be at least 0 and below 1")
        if self.pseudo_label is not None and self.teacher is None:
            raise SettingsError(f"pseudo_label is {self.pseudo_label}, and no teacher labels it; name one by --teacher")
        if not 0 <= self.pseudo_score <= 1:
            raise SettingsError(f"pseudo_score is {self.pseudo_score}; it must be between 0 and 1")
        if self.teacher_weight < 0:
            raise SettingsError(f"teacher_weight is {self.teacher_weight}; it must be at least 0")
        if self.learning_rate <= 0:
            raise SettingsError(f"learning_rate is {self.learning_rate}; it must be above 0")
