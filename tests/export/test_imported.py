"""A network of darknet's through the same gate, with a layer of each kind."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from pocketdet.core.metadata import ModelMetadata
from pocketdet.export import export
from pocketdet.models.checkpoint import TorchBackend, save_detector
from pocketdet.models.darknet.importing import describe_darknet
from pocketdet.models.detector import Detector, build_darknet
from pocketdet.runtime.backends import OnnxBackend

OUTPUT = """[convolutional]
filters=14
size=1
activation=linear
[yolo]
mask={}
anchors=8,9, 20,30, 50,40, 90,99
classes=2
scale_x_y=1.1"""
CFG = f"""[net]
width=64
height=64
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish
[convolutional]
batch_normalize=1
filters=8
groups=8
size=3
pad=1
activation=swish
[avgpool]
[convolutional]
filters=8
activation=logistic
[scale_channels]
from=-3
[shortcut]
from=-5
activation=linear
[route]
layers=-1
groups=2
group_id=1
[maxpool]
size=2
stride=2
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
{OUTPUT.format("2,3")}
[route]
layers=-3
[upsample]
stride=2
[route]
layers=-1,7
{OUTPUT.format("0,1")}"""


def build() -> tuple[Detector, ModelMetadata]:
    torch.manual_seed(0)
    detector = build_darknet(CFG)
    return detector, describe_darknet(detector, ("cat", "dog"))


def settle(detector: Detector) -> None:
    """Running statistics of a few pictures, and outputs that differ."""
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    for level in detector.head.levels:
        for layer in (level.objectness, level.classes):
            nn.init.normal_(layer.weight, 0, 0.3)
    with torch.no_grad():
        detector.train()(torch.rand(4, 3, 64, 64))
    detector.eval()


def test_the_exported_file_computes_what_the_imported_detector_computes(tmp_path: Path):
    detector, metadata = build()
    settle(detector)
    save_detector(tmp_path / "a.safetensors", detector, metadata)
    report = export(tmp_path / "a.safetensors")
    assert report.gate.max_output_difference < 1e-3
    backend = OnnxBackend(report.path, threads=1)
    for fact in ("anchors", "strides", "scale_xy", "stretch", "padding_colour", "mean", "std"):
        assert getattr(backend.metadata, fact) == getattr(metadata, fact), fact
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    ours = TorchBackend(detector, metadata).run(pixels)
    for level, theirs in zip(ours, backend.run(pixels), strict=True):
        for a, b in zip(level, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)
        assert level.objectness.std() > 0.1
