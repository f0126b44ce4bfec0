"""What an exporter is given."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.metadata import ModelMetadata
from pocketdet.models.detector import Detector

Precision = Literal["float32", "half", "int8"]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A detector on its way to a file.

    Args:
        detector: In evaluation mode; an exporter leaves it as it is.
        metadata: Goes into the file; its input size is the file's, and its outputs are.
        precision: Of weights and, with "int8", of what is computed.
        calibration: ``(N, H, W, 3)`` letterboxed RGB, from which an int8 exporter learns how large values become; empty
            for other precisions.
        is_dynamic: The file takes any size that is a multiple of 32.
        tell: Takes a line for the person who waits, such as which layers stay in float and why.
    """

    detector: Detector
    metadata: ModelMetadata
    precision: Precision = "float32"
    calibration: NDArray[np.uint8] = dataclasses.field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    is_dynamic: bool = False
    tell: Callable[[str], None] = print
