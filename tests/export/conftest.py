"""What all exports are tested on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pocketdet.core.metadata import YOLOV4_TINY_ANCHORS, YOLOV4_TINY_SCALE_XY, ModelMetadata
from pocketdet.models.checkpoint import save_detector
from pocketdet.models.detector import Detector, build_from_metadata

Build = Callable[[ModelMetadata], Detector]


@pytest.fixture(scope="session")
def build_seasoned() -> Build:
    """Builds a detector with random weights whose batch norms have seen some pictures: values stay in a sane range."""

    def build(metadata: ModelMetadata) -> Detector:
        torch.manual_seed(0)
        detector = build_from_metadata(metadata).train()
        with torch.no_grad():
            for _ in range(20):
                detector(torch.rand(4, 3, *metadata.input_size))
        return detector.eval()

    return build


@pytest.fixture(scope="session")
def smallest() -> ModelMetadata:
    """As few layers as a detector can have, for converters that take their time for each."""
    return ModelMetadata(
        "cspdarknet53_tiny",
        0.125,
        0.125,
        "symmetric",
        ("cat", "dog", "emu"),
        (64, 96),
        YOLOV4_TINY_ANCHORS,
        (16, 32),
        YOLOV4_TINY_SCALE_XY,
        neck_activation="leaky",
        neck_convolution="plain",
    )


@pytest.fixture(scope="session")
def smallest_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, build_seasoned: Build, smallest: ModelMetadata
) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_detector(path, build_seasoned(smallest), smallest)
    return path
