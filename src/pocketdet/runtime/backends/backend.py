"""What every runtime promises: pixels in, raw head outputs out."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import LevelLogits
from pocketdet.core.metadata import ModelMetadata

INPUT_NAME = "images"


class Backend(Protocol):
    """A loaded network."""

    @property
    def metadata(self) -> ModelMetadata:
        """The facts that came with the network."""

    def run(self, images: NDArray[np.uint8]) -> list[LevelLogits]:
        """Raw head outputs. May be called by several threads at once.

        Args:
            images: ``(B, H, W, 3)`` letterboxed RGB, of the metadata's input size.

        Returns:
            P3, P4, P5, float32.
        """


def output_names(num_levels: int) -> list[str]:
    """Of an exported file: ``boxes_p3``, ``objectness_p3``, ``classes_p3``, ``boxes_p4`` and so on.

    The last level is P5; a network with two has P4 and P5.
    """
    return [f"{part}_p{level}" for level in range(6 - num_levels, 6) for part in LevelLogits._fields]


def expected_channels(metadata: ModelMetadata) -> list[int]:
    """Of every output, in the order of ``output_names``."""
    num_classes = len(metadata.class_names)
    return [len(anchors) * per_anchor for anchors in metadata.anchors for per_anchor in (4, 1, num_classes)]
