"""YOLOv4's own networks, and one that a darknet configuration describes, through the whole of a project."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from pocketdet.core.metadata import YOLOV4_ANCHORS, YOLOV4_TINY_ANCHORS
from pocketdet.datasets.load import load_dataset
from pocketdet.export import export
from pocketdet.loading import load
from pocketdet.models.checkpoint import load_detector, save_detector
from pocketdet.models.darknet.importing import describe_darknet
from pocketdet.models.detector import build_darknet
from pocketdet.training import TrainSettings, train
from pocketdet.training.loss import build_loss

SMALL = TrainSettings(
    width=0.125, neck_width=0.125, size=64, epochs=1, batch_size=4, evaluate_every=1, checkpoint_minutes=0.0, bf16=False
)
CFG = """[net]
width=96
height=96
[convolutional]
batch_normalize=1
filters=16
size=3
stride=8
pad=1
activation=mish
[maxpool]
size=2
stride=2
[convolutional]
batch_normalize=1
filters=32
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=18
activation=linear
[yolo]
mask=2,3
anchors=8,8, 16,16, 32,32, 48,48
classes=4
scale_x_y=1.05
iou_thresh=0.4
[route]
layers=1
[convolutional]
filters=18
activation=linear
[yolo]
mask=0,1
anchors=8,8, 16,16, 32,32, 48,48
classes=4
scale_x_y=1.1
iou_thresh=0.4
"""


def test_yolov4_is_trained_like_any_detector(drawn_voc: Path, tmp_path: Path) -> None:
    _, metadata = load_detector(
        train(drawn_voc, dataclasses.replace(SMALL, model="cspdarknet53", output=tmp_path)).best
    )
    assert (metadata.neck_activation, metadata.neck_convolution) == ("leaky", "plain")
    assert metadata.anchors == YOLOV4_ANCHORS


def test_yolov4_tiny_has_two_levels_with_its_own_anchors(drawn_voc: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, model="cspdarknet53_tiny", output=tmp_path / "run", dropblock=0.1)
    result = train(drawn_voc, settings)
    _, metadata = load_detector(result.best)
    assert (metadata.neck_activation, metadata.neck_convolution) == ("leaky", "plain")
    assert (metadata.strides, metadata.scale_xy) == ((16, 32), (1.05, 1.05))
    assert metadata.anchors == YOLOV4_TINY_ANCHORS
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    assert len(load(result.best).predict(image, score_threshold=0.0001).boxes) > 0


def test_own_anchors_are_as_many_as_the_network_has(drawn_voc: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, model="cspdarknet53_tiny", anchors="kmeans", output=tmp_path)
    _, metadata = load_detector(train(drawn_voc, settings).best)
    assert [len(level) for level in metadata.anchors] == [3, 3]


def test_a_configuration_is_fine_tuned_from_imported_weights_with_other_classes(
    drawn_voc: Path, tmp_path: Path
) -> None:
    configuration, start = tmp_path / "net.cfg", tmp_path / "start.safetensors"
    configuration.write_text(CFG)
    torch.manual_seed(0)
    imported = build_darknet(CFG)
    save_detector(start, imported, describe_darknet(imported, "abcd"))
    settings = dataclasses.replace(
        SMALL, model=str(configuration), start_weights=start, freeze_epochs=1, output=tmp_path / "run"
    )
    result = train(drawn_voc, settings)
    configuration.unlink()  # the checkpoint holds it
    train(drawn_voc, dataclasses.replace(settings, resume=True))
    detector, metadata = load_detector(result.best)
    assert metadata.class_names == ("blue thing", "red thing")
    assert (metadata.strides, metadata.scale_xy, metadata.input_size) == ((16, 32), (1.1, 1.05), (64, 64))
    assert metadata.anchors == (((8, 8), (16, 16)), ((32, 32), (48, 48)))
    assert (metadata.mean, metadata.std) == ((0, 0, 0), (1, 1, 1))
    assert detector.head.levels[0].classes.out_channels == 2 * 2
    records = load_dataset(drawn_voc, ("train",)).records
    assert build_loss(metadata, settings, records).shape_iou == 0.4
    assert build_loss(metadata, dataclasses.replace(settings, shape_iou=0.3), records).shape_iou == 0.3
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for ours, theirs in zip(detector.backbone(image), imported.eval().backbone(image), strict=True):
            torch.testing.assert_close(ours, theirs)  # frozen, so as it was imported
    assert export(result.best, tmp_path / "net.onnx").gate.max_score_difference < 1e-3
    again, _ = load_detector(tmp_path / "net.onnx")
    with torch.inference_mode():
        torch.testing.assert_close(again(image)[0].boxes, detector(image)[0].boxes, rtol=1e-3, atol=1e-3)
