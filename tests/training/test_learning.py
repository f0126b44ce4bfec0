from pathlib import Path

import torch
from torch import nn

from pocketdet.core.images import read_image
from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.load import load_dataset
from pocketdet.evaluation import evaluate
from pocketdet.models.checkpoint import TorchBackend
from pocketdet.models.detector import build_from_metadata
from pocketdet.runtime.predictor import Predictor
from pocketdet.training.assigner import Targets
from pocketdet.training.distillation import Student, TaughtLoss, Teacher
from pocketdet.training.loader import Batch, collate
from pocketdet.training.loss import DetectionLoss
from pocketdet.training.pictures import Sample


def learn(learner: nn.Module, loss: nn.Module, batch: Batch, steps: int) -> None:
    optimizer = torch.optim.AdamW(learner.parameters(), lr=4e-3)
    images = batch.images.float() / 255
    for _ in range(steps):
        optimizer.zero_grad()
        loss(learner(images), batch.targets).total.backward()
        optimizer.step()


def test_a_detector_learns_four_pictures_by_heart(drawn_voc: Path) -> None:
    """The whole line at once: labels, loss, gradients, batch norm, decoding, NMS, evaluation."""
    dataset = load_dataset(drawn_voc)
    dataset = type(dataset)(dataset.records[:4], dataset.class_names)
    metadata = ModelMetadata("mobilenet_v2", 0.35, 0.25, "symmetric", dataset.class_names, (96, 96))
    torch.manual_seed(0)
    detector = build_from_metadata(metadata)
    loss = DetectionLoss(metadata)
    samples = [Sample(read_image(r.path).pixels, r.boxes, r.class_ids) for r in dataset.records]
    learn(detector, loss, collate(samples), 150)
    result = evaluate(Predictor(TorchBackend(detector, metadata)).predict_record, dataset)
    assert sum(len(record.boxes) for record in dataset.records) >= 4
    assert result.ap50 > 0.95
    assert result.ap > 0.4


def test_a_student_learns_from_its_teacher_objects_that_no_label_names(drawn_voc: Path) -> None:
    """The teacher knows four pictures; the student sees them with the labels of two and is asked the others."""
    dataset = load_dataset(drawn_voc)
    metadata = ModelMetadata("mobilenet_v2", 0.35, 0.125, "symmetric", dataset.class_names, (96, 96))
    batch = collate([Sample(read_image(r.path).pixels, r.boxes, r.class_ids) for r in dataset.records[:4]])
    without_labels = type(dataset)(dataset.records[:2], dataset.class_names)
    torch.manual_seed(0)
    master, by_labels = build_from_metadata(metadata), DetectionLoss(metadata)
    learn(master, by_labels, batch, 110)
    teacher = Teacher(master.eval().requires_grad_(False), metadata, Path("teacher"), "")

    has_labels = batch.targets.pictures >= 2
    batch = batch._replace(targets=Targets(*(part[has_labels] for part in batch.targets)))
    ap50 = {}
    for is_taught in (False, True):
        torch.manual_seed(1)
        detector = build_from_metadata(metadata)
        if is_taught:
            learn(Student(detector, teacher, metadata), TaughtLoss(by_labels, metadata, metadata, 3.0), batch, 90)
        else:
            learn(detector, by_labels, batch, 90)
        predictor = Predictor(TorchBackend(detector, metadata))
        ap50[is_taught] = evaluate(predictor.predict_record, without_labels).ap50
    assert ap50[False] < 0.2
    assert ap50[True] > 0.5
