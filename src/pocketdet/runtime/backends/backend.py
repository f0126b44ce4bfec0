"""What every runtime promises: pixels in, raw head outputs out."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import LevelLogits
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError

INPUT_NAME = "images"
Shape = tuple[int | None, ...]  # ``None`` where any size will do
THRESHOLDS = ("score_threshold", "iou_threshold")  # inputs of a file with its own NMS


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


class BoxBackend(Backend, Protocol):
    """A loaded network that gives boxes: the ``outputs`` of its metadata are not "logits"."""

    def fetch(self, images: NDArray[np.uint8], thresholds: Mapping[str, float]) -> list[NDArray[Any]]:
        """The outputs that ``expected_shapes`` names, for the batch.

        Args:
            images: As ``run`` takes them.
            thresholds: Those of ``THRESHOLDS``, where the file has its own NMS; else none.
        """


def threads_of_a_run(threads: int | None, streams: int) -> int | None:
    """Where so many runs share the threads; ``None`` where the runtime may choose."""
    if streams == 1:
        return threads
    return max(1, (threads or os.cpu_count() or 1) // streams)


def output_names(num_levels: int) -> list[str]:
    """Of an exported file: ``boxes_p3``, ``objectness_p3``, ``classes_p3``, ``boxes_p4`` and so on.

    The last level is P5; a network with two has P4 and P5.
    """
    return [f"{part}_p{level}" for level in range(6 - num_levels, 6) for part in LevelLogits._fields]


def expected_channels(metadata: ModelMetadata) -> list[int]:
    """Of every output, in the order of ``output_names``."""
    num_classes = len(metadata.class_names)
    return [len(anchors) * per_anchor for anchors in metadata.anchors for per_anchor in (4, 1, num_classes)]


def expected_shapes(metadata: ModelMetadata) -> dict[str, Shape]:
    """All outputs of a file by name, in its order."""
    if metadata.outputs == "decoded":
        return {"detections": (None, None, 4 + len(metadata.class_names))}
    if metadata.outputs == "suppressed":
        return {"boxes": (None, None, 4), "scores": (None, None), "labels": (None, None), "count": (None,)}
    names, channels = output_names(len(metadata.strides)), expected_channels(metadata)
    return {name: (None, size, None, None) for name, size in zip(names, channels, strict=True)}


def check_outputs(path: object, metadata: ModelMetadata, found: Mapping[str, Sequence[int | str | None]]) -> None:
    """A graph must be the one that its metadata describe, else boxes would be wrong in silence.

    Args:
        path: The file, for the message.
        metadata: Of the file.
        found: Shapes of the graph's outputs by name; what is no number is a size that is open.

    Raises:
        ModelFileError: An output is missing or has another shape.
    """
    for name, expected in expected_shapes(metadata).items():
        if name not in found:
            raise ModelFileError(f"{path}: output '{name}' is missing; the model has {', '.join(found)}")
        shape = found[name]
        if len(shape) != len(expected) or any(
            isinstance(size, int) and wanted not in (None, size) for size, wanted in zip(shape, expected, strict=True)
        ):
            raise ModelFileError(
                f"{path}: output '{name}' has the shape {list(shape)}, but anchors and classes of its metadata "
                f"ask for {max(size or 0 for size in expected)} channels; the file was changed: export it again"
            )
