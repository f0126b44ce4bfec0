"""What a person sets for a training run. Free of torch, so that ``pocketdet train --help`` works without it."""

import dataclasses
import math
from pathlib import Path
from typing import Literal, get_args

from pocketdet.errors import SettingsError

STRIDE = 32  # of P5; inputs are multiples of it
SMALLEST_SIZE = 64
BASE_PICTURES = 16  # a step; the learning rates below belong to it
BASE_LEARNING_RATES = {"adamw": 3e-3, "sgd": 1e-2}
BoxLoss = Literal["ciou", "diou", "giou"]
AnchorChoice = Literal["yolov4", "kmeans"]

SHAPE_IOU = 0.213  # darknet's iou_thresh for YOLOv4
CHOICES = {"box_loss": get_args(BoxLoss), "anchors": get_args(AnchorChoice)}


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run.

    Args:
        model: Backbone: mobilenet_v1, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small, a V3 with _minimalistic,
            cspdarknet53 (YOLOv4 itself) or cspdarknet53_tiny; or a darknet .cfg file, which is the whole network.
        width: Multiplier of the backbone's channels.
        neck_width: Multiplier of the channels of neck and head.
        neck_activation: Of neck and head; by default ReLU6, on cspdarknet53 leaky as in YOLOv4.
        neck_convolution: The 3x3 convolutions of neck and head; by default depthwise separable, on cspdarknet53 plain.
        padding: Of the backbone: TensorFlow's "same" or PyTorch's "symmetric"; start weights carry the right one.
        size: Height and width of the input in pixels, a multiple of 32.
        epochs: Passes over the training pictures.
        batch_size: Pictures a batch; where torchrun started several processes they share it. 0 chooses the largest
            power of two, up to 64, that fits the memory.
        accumulate: Batches a step of the optimizer.
        optimizer: AdamW, or SGD with momentum.
        learning_rate: At the end of the warmup, for neck and head. By default 0.003 for AdamW, 0.01 for SGD at 16
            pictures a step (batch_size times accumulate); grows with their number, for AdamW with its square root.
        backbone_learning_rate: Factor on the learning rate for the backbone.
        schedule: After the warmup the learning rate falls along a cosine to 1 %, or stays.
        weight_decay: On convolution weights only.
        warmup_epochs: Epochs in which the learning rate rises.
        freeze_epochs: First epochs with a fixed backbone, its batch norm fixed too.
        freeze_batch_norm: The backbone's batch norm keeps the statistics of the start weights in all epochs.
        mosaic: Probability that a training picture is a mosaic of four.
        mixup: Probability that a training picture is blended with another one.
        cutmix: Probability that a rectangle of another picture covers a part of it.
        copy_paste: Probability that objects of other pictures are pasted in, as rectangles.
        plain_epochs: Share of the epochs, at the end, without the four above.
        flip: Probability of a mirrored picture.
        turn: Probability of a picture turned by 90, 180 or 270 degrees, for pictures that have no up: through a
            microscope, or from above.
        multi_scale: Every 10 steps another input size, within this share of the size; 0 is off.
        dropblock: Probability that DropBlock leaves a cell of the neck's maps out, rising from 0 over the run.
        cross_batch_norm: Batch norm over all batches of a step so far, for accumulate above 1.
        self_adversarial: Probability of a batch whose pictures the network first alters to hide their objects.
        label_smoothing: 0 is off; e moves every class target by e / 2 towards one half.
        box_loss: The box term is 1 minus this overlap of box and target.
        shape_iou: A target is learned by every anchor whose shape has an IoU with it above this, and by its best one; 1
            means the best one alone, as YOLOv3 does. By default 0.213, or what a .cfg says (iou_thresh).
        grid_sensitivity: Stretch the centres a little beyond their cells, so that they reach its border; by default
            on, or as a detector given as start weights does it.
        class_weights: Objects of rare classes count more, up to 10 times as much as those of the most frequent one.
        anchors: YOLOv4's (or those of the .cfg), or the centres of a k-means over the training boxes at this size. By
            default those of the same detector given as start weights, else YOLOv4's.
        ema: Decay of the average of the weights; 0 is off.
        start_weights: Weights of the backbone or of a whole detector: the name of a bundled one, the folder of a run,
            .safetensors, an exported float .onnx, a state dict as .pth, Keras' .h5, a TensorFlow checkpoint's
            .index; or none. By default a bundled detector with this backbone and width, where there is one.
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
        logger: Besides TensorBoard and results.csv send the curves to wandb or mlflow, if installed.
        output: Folder of the run: checkpoints, results.csv, TensorBoard.
        resume: Go on from the last checkpoint in the output folder.
    """

    model: str = "mobilenet_v2"
    width: float = 1.0
    neck_width: float = 0.5
    neck_activation: Literal["relu6", "mish", "leaky"] | None = None
    neck_convolution: Literal["separable", "plain"] | None = None
    padding: Literal["same", "symmetric"] | None = None
    size: int = 416
    epochs: int = 100
    batch_size: int = 16
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float | None = None
    backbone_learning_rate: float = 0.1
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.02
    warmup_epochs: float = 1.0
    freeze_epochs: int = 0
    freeze_batch_norm: bool = False
    mosaic: float = 0.7
    mixup: float = 0.0
    cutmix: float = 0.0
    copy_paste: float = 0.0
    plain_epochs: float = 0.3
    flip: float = 0.5
    turn: float = 0.0
    multi_scale: float = 0.0
    dropblock: float = 0.0
    cross_batch_norm: bool = False
    self_adversarial: float = 0.0
    label_smoothing: float = 0.0
    box_loss: BoxLoss = "ciou"
    shape_iou: float | None = None
    grid_sensitivity: bool | None = None
    class_weights: bool = True
    anchors: AnchorChoice | None = None
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
    logger: tuple[Literal["wandb", "mlflow"], ...] = ()
    output: Path = Path("runs/train")
    resume: bool = False

    def __post_init__(self) -> None:
        if self.size < SMALLEST_SIZE or self.size % STRIDE:
            raise SettingsError(f"size is {self.size}; it must be a multiple of {STRIDE}, from {SMALLEST_SIZE} on")
        for name in ("epochs", "accumulate", "evaluate_every"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("batch_size", "workers", "patience"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 0")
        shares = (
            "mosaic",
            "mixup",
            "cutmix",
            "copy_paste",
            "plain_epochs",
            "flip",
            "turn",
            "label_smoothing",
            "self_adversarial",
        )
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.pseudo_label is not None and self.teacher is None:
            raise SettingsError(f"pseudo_label is {self.pseudo_label}, and no teacher labels it; name one by --teacher")
        if not 0 <= self.pseudo_score <= 1:
            raise SettingsError(f"pseudo_score is {self.pseudo_score}; it must be between 0 and 1")
        if self.teacher_weight < 0:
            raise SettingsError(f"teacher_weight is {self.teacher_weight}; it must be at least 0")
        if self.shape_iou is not None and not 0 < self.shape_iou <= 1:
            raise SettingsError(f"shape_iou is {self.shape_iou}; it must be above 0 and at most 1")
        for name, known in CHOICES.items():
            if getattr(self, name) not in (*known, None):
                raise SettingsError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        for name in ("ema", "dropblock", "multi_scale"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.schedule not in ("cosine", "constant"):
            raise SettingsError(f'schedule is "{self.schedule}"; it must be one of cosine, constant')
        if self.cross_batch_norm and self.sync_batch_norm:
            raise SettingsError("cross_batch_norm and sync_batch_norm are both on; choose one of them")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise SettingsError(f"learning_rate is {self.learning_rate}; it must be above 0")

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate at the end of the warmup.

        By default scaled by the pictures of a step: for SGD linearly (1706.02677 §2.1), for AdamW by the square root
        (2205.10330).
        """
        if self.learning_rate is not None:
            return self.learning_rate
        ratio = self.batch_size * self.accumulate / BASE_PICTURES
        return BASE_LEARNING_RATES[self.optimizer] * (ratio if self.optimizer == "sgd" else math.sqrt(ratio))
