"""From what a file gives, logits or boxes, to the objects of each picture."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import Decoded, Nms, decode_cells, decode_picture
from pocketdet.runtime.backends import Backend, BoxBackend
from pocketdet.runtime.backends.backend import THRESHOLDS


def find_boxes(
    backend: Backend, images: NDArray[np.uint8], thresholds: Sequence[tuple[float, float]], nms: Nms = "iou"
) -> list[Decoded]:
    """Run a network and decode what it gives.

    Args:
        backend: Of any kind of outputs.
        images: ``(B, H, W, 3)`` letterboxed.
        thresholds: Of each picture: its score threshold and its IoU threshold.
        nms: What counts as overlap; a file with its own NMS knows "iou" alone.
    """
    metadata = backend.metadata
    if metadata.outputs == "logits":
        levels = backend.run(images)
        return [decode_picture(levels, n, metadata, *of_one, nms=nms) for n, of_one in enumerate(thresholds)]
    network = cast(BoxBackend, backend)
    if metadata.outputs == "decoded":
        [cells] = network.fetch(images, {})
        return [decode_cells(cells[n], *of_one, nms=nms) for n, of_one in enumerate(thresholds)]
    return [
        _take_found(*network.fetch(images[n : n + 1], dict(zip(THRESHOLDS, of_one, strict=True))))
        for n, of_one in enumerate(thresholds)
    ]


def _take_found(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], labels: NDArray[np.int64], count: NDArray[np.int64]
) -> Decoded:
    """Of a batch of one; behind ``count`` rows there is nothing."""
    found = slice(int(count[0]))
    return Decoded(boxes[0, found], scores[0, found], labels[0, found])
