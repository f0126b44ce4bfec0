from pathlib import Path

import torch

from pocketdet.core.images import read_image
from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.load import load_dataset
from pocketdet.evaluation import evaluate
from pocketdet.models.checkpoint import TorchBackend
from pocketdet.models.detector import build_from_metadata
from pocketdet.runtime.predictor import Predictor
from pocketdet.training.loader import collate
from pocketdet.training.loss import DetectionLoss
from pocketdet.training.pictures import Sample


def test_a_detector_learns_four_pictures_by_heart(drawn_voc: Path) -> None:
    """The whole line at once: labels, loss, gradients, batch norm, decoding, NMS, evaluation."""
    dataset = load_dataset(drawn_voc)
    dataset = type(dataset)(dataset.records[:4], dataset.class_names)
    metadata = ModelMetadata("mobilenet_v2", 0.35, 0.25, "symmetric", dataset.class_names, (96, 96))
    torch.manual_seed(0)
    detector = build_from_metadata(metadata)
    loss = DetectionLoss(metadata)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=4e-3)
    samples = [Sample(read_image(r.path).pixels, r.boxes, r.class_ids) for r in dataset.records]
    batch = collate(samples)
    images = batch.images.float() / 255
    for _ in range(150):
        optimizer.zero_grad()
        loss(detector(images), batch.targets).total.backward()
        optimizer.step()
    result = evaluate(Predictor(TorchBackend(detector, metadata)).predict_record, dataset)
    assert sum(len(record.boxes) for record in dataset.records) >= 4
    assert result.ap50 > 0.95
    assert result.ap > 0.4
