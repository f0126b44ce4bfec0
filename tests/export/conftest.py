"""What all exports are tested on."""

from collections.abc import Callable

import pytest
import torch

from pocketdet.core.metadata import ModelMetadata
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
