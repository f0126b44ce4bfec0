"""Learning from a larger detector: what the student is shown beside the labels, and how it is judged by it.

After Chen et al. 2017, "Learning efficient object detection models with knowledge distillation": a term for the
outputs and one for the features. Places count by the teacher's objectness, as in Mehta and Ozturk (1712.05274),
so that the background does not drown the objects. Outputs are compared place by place, which takes the same anchors; a
teacher with others teaches by its features alone.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError, SettingsError
from pocketdet.models.checkpoint import load_detector
from pocketdet.models.detector import Detector
from pocketdet.models.head import HeadOutput
from pocketdet.training.assigner import Targets
from pocketdet.training.boxes import complete_iou, decode_boxes, split_anchors
from pocketdet.training.loss import BOX_WEIGHT, DetectionLoss
from pocketdet.training.run_folder import RunFolder
from pocketdet.training.settings import TrainSettings


class Teacher(NamedTuple):
    """A trained detector that only answers."""

    detector: Detector  # evaluation mode, no gradients, classes in the student's order
    metadata: ModelMetadata  # classes in the student's order
    path: Path
    sha256: str  # of its file


class Lesson(NamedTuple):
    """What the student makes of a batch and what the teacher makes of it; P3, P4, P5 each."""

    outputs: Sequence[HeadOutput]
    features: Sequence[Tensor]  # (B, C, H, W) of the neck, C as the teacher's
    teacher_outputs: Sequence[HeadOutput]
    teacher_features: Sequence[Tensor]


class TaughtLosses(NamedTuple):
    """``Losses`` with the teacher's term, which is a part of the total."""

    total: Tensor
    box: Tensor
    objectness: Tensor
    classes: Tensor
    teacher: Tensor
    positives: Tensor


def load_teacher(path: Path, class_names: tuple[str, ...]) -> Teacher:
    """Read a teacher; where it knows the same classes in another order, its head is put in ours.

    Args:
        path: A checkpoint or the folder of a training run.
        class_names: Of the student.

    Raises:
        ModelFileError: There is none, or it cannot be read.
        SettingsError: It knows other classes.
    """
    file = RunFolder(path).best if path.is_dir() else path
    if not file.is_file():
        raise ModelFileError(
            f"{file}: there is no such file; a teacher is a .safetensors checkpoint or the folder of a training run "
            "(bundled and exported detectors cannot teach)"
        )
    detector, metadata = load_detector(file)
    if sorted(metadata.class_names) != sorted(class_names):
        raise SettingsError(
            f"{file} knows the classes {', '.join(metadata.class_names)}, and this run is to learn "
            f"{', '.join(class_names)}; a teacher must know the same ones: choose another, or name them by --classes"
        )
    _order_classes(detector, [metadata.class_names.index(name) for name in class_names])
    metadata = dataclasses.replace(metadata, class_names=class_names)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return Teacher(detector.requires_grad_(False), metadata, file, sha256)


def check_same_teacher(teacher: Teacher, saved: dict[str, Any]) -> None:
    """Refuse to go on with another teacher than the run began with.

    Raises:
        ModelFileError: The file was changed since.
    """
    if saved["teacher"] != teacher.sha256:
        raise ModelFileError(
            f"{teacher.path} is not the teacher that this run began with: its SHA-256 differs; put that file back, "
            "or begin again in another folder by --output"
        )


def term_names(settings: TrainSettings) -> tuple[str, ...]:
    """The terms of a run's loss as its results call them, the total first."""
    names = ("loss", "box_loss", "objectness_loss", "class_loss")
    return (*names, "teacher_loss") if settings.teacher is not None and settings.teacher_weight > 0 else names


class Student(nn.Module):
    """A detector and its teacher before the same pictures, both at the size that the student learns at.

    Args:
        detector: Learns.
        teacher: Answers; its weights are no part of this module's, so that no optimizer and no checkpoint has them.
        metadata: Of the student.

    Raises:
        SettingsError: The teacher's strides are others.
    """

    def __init__(self, detector: Detector, teacher: Teacher, metadata: ModelMetadata) -> None:
        super().__init__()
        if metadata.strides != teacher.metadata.strides:
            raise SettingsError(
                f"{teacher.path} has the strides {teacher.metadata.strides}, and this run has {metadata.strides}; "
                "levels are compared one by one, so both must have the same: choose another teacher or another --model"
            )
        self.detector = detector
        self.adapters = nn.ModuleList(
            nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1, bias=False)
            for ours, theirs in zip(detector.neck.out_channels, teacher.detector.neck.out_channels, strict=True)
        )
        self._teacher = (teacher.detector,)  # in a tuple, so that it is no submodule

    def forward(self, images: Tensor) -> Lesson:
        """``(B, 3, H, W)`` RGB in 0 to 1, sides multiples of 32; each detector normalises them its own way."""
        (teacher,) = self._teacher
        with torch.no_grad():
            teacher_features = teacher.features(images)
            teacher_outputs = teacher.head(teacher_features)
        features = self.detector.features(images)
        outputs = self.detector.head(features)
        adapted = [adapter(level) for adapter, level in zip(self.adapters, features, strict=True)]
        return Lesson(outputs, adapted, teacher_outputs, teacher_features)


class TaughtLoss(nn.Module):
    """The loss by the labels, and a term that is 0 where the student answers as its teacher.

    It is a sum over places like the other terms: CIoU of the two boxes, divergence of the class probabilities, and
    the distance of the two feature vectors' directions, each times the teacher's objectness; and the divergence of the
    objectness itself, where quiet places count little, as in ``DetectionLoss``. So it fits the division by positives.
    Of a teacher with other anchors only the features count.

    Args:
        by_labels: The other terms.
        metadata: Of the student.
        teacher: Its grid sensitivity and anchors may be others.
        weight: Of the teacher's term.
    """

    anchors: Tensor

    def __init__(
        self, by_labels: DetectionLoss, metadata: ModelMetadata, teacher: ModelMetadata, weight: float
    ) -> None:
        super().__init__()
        self.by_labels = by_labels
        self.strides = metadata.strides
        self.scales = tuple(zip(metadata.scale_xy, teacher.scale_xy, strict=True))
        self.weight = weight
        self.has_teachers_anchors = metadata.anchors == teacher.anchors
        self.register_buffer("anchors", torch.tensor(metadata.anchors, dtype=torch.float32), persistent=False)

    def forward(self, lesson: Lesson, targets: Targets) -> TaughtLosses:
        """Compute the loss; targets as for ``DetectionLoss``."""
        total, box, objectness, classes, positives = self.by_labels(lesson.outputs, targets)
        terms = [self._level(level, *parts) for level, parts in enumerate(zip(*lesson, strict=True))]
        teacher = torch.stack(terms).sum() / positives.clamp(min=1)
        return TaughtLosses(total + self.weight * teacher, box, objectness, classes, teacher, positives)

    def _level(
        self, level: int, output: HeadOutput, features: Tensor, teacher: HeadOutput, teacher_features: Tensor
    ) -> Tensor:
        """The teacher's term of one level, summed over its places."""
        logits, teacher_logits = output.objectness.float(), teacher.objectness.float()  # (B, A, H, W)
        weight = teacher_logits.sigmoid()
        apart = normalize(features.float(), dim=1) - normalize(teacher_features.float(), dim=1)  # (B, C, H, W)
        feature = (weight.amax(dim=1) * apart.square().sum(dim=1) / 2).sum()  # 1 - cosine, for directions
        if not self.has_teachers_anchors:
            return feature

        loudness = torch.maximum(logits.detach(), teacher_logits).sigmoid().sqrt()
        objectness = (loudness * divergence(logits, teacher_logits)).sum()

        num_anchors = self.anchors.shape[1]
        ours, theirs = (split_anchors(part.classes, num_anchors).float() for part in (output, teacher))
        classes = (weight * divergence(ours, theirs).sum(dim=2)).sum()

        boxes, teacher_boxes = (
            self._boxes(part, level, scale) for part, scale in zip((output, teacher), self.scales[level], strict=True)
        )
        box = (weight.flatten() * (1 - complete_iou(boxes, teacher_boxes))).sum()
        return BOX_WEIGHT * box + objectness + classes + feature

    def _boxes(self, output: HeadOutput, level: int, scale_xy: float) -> Tensor:
        """``(B * A * H * W, 4)`` xyxy in input pixels."""
        logits = split_anchors(output.boxes, self.anchors.shape[1]).float().permute(0, 1, 3, 4, 2)
        rows, columns = (torch.arange(count, device=logits.device) for count in logits.shape[2:4])
        row, column = torch.meshgrid(rows, columns, indexing="ij")
        cells = torch.stack((column, row), dim=-1)
        anchors = self.anchors[level][:, None, None]
        return decode_boxes(logits, cells, anchors, self.strides[level], scale_xy).flatten(0, 3)


class Learner(NamedTuple):
    """What a run trains, and by which loss."""

    module: nn.Module  # the detector, or a ``Student`` around it
    loss: nn.Module  # of what the module gives, and the targets
    adapters: nn.ModuleList  # of a ``Student``; else empty


def build_learner(
    detector: Detector, metadata: ModelMetadata, teacher: Teacher | None, loss: DetectionLoss, weight: float
) -> Learner:
    """The detector and its loss, with a teacher if there is one whose term counts.

    Args:
        detector: On its device.
        metadata: Of the detector.
        teacher: Moves to the detector's device.
        loss: By the labels, on that device too.
        weight: Of the teacher's term.

    Raises:
        SettingsError: The teacher's strides are not the detector's.
    """
    if teacher is None or weight == 0:
        return Learner(detector, loss, nn.ModuleList())
    device = detector.mean.device
    teacher.detector.to(device).to(memory_format=torch.channels_last)
    student = Student(detector, teacher, metadata)
    student.adapters.to(device).to(memory_format=torch.channels_last)
    return Learner(student, TaughtLoss(loss, metadata, teacher.metadata, weight).to(device), student.adapters)


def divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each probability from the teacher's; 0 where they are equal."""
    wanted = teacher_logits.sigmoid()
    cross_entropy = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return cross_entropy - binary_cross_entropy_with_logits(teacher_logits, wanted, reduction="none")


def _order_classes(detector: Detector, order: list[int]) -> None:
    """Let class k of the head be what class ``order[k]`` was."""
    for level in detector.head.levels:
        for parameter in level.get_submodule("classes").parameters():
            by_anchor = parameter.data.reshape(-1, len(order), *parameter.shape[1:])
            parameter.data = by_anchor[:, order].reshape(parameter.shape)
