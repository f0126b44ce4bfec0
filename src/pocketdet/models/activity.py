"""What depthwise layers do on real pictures: which of their channels never change."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketdet.core.images import read_image
from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.load import find_layout, load_dataset
from pocketdet.errors import DataError
from pocketdet.models.blocks import ConvBlock
from pocketdet.models.checkpoint import TorchBackend
from pocketdet.models.detector import Detector
from pocketdet.models.kernel_health import DEAD_BELOW, is_depthwise
from pocketdet.runtime.sources import list_pictures

MAX_PICTURES = 200


def find_pictures(data: Path, split: str) -> list[Path]:
    """At most ``MAX_PICTURES``, evenly spread, of a data set or of a folder (or pattern) of pictures.

    Args:
        data: One of the two.
        split: Of the data set.

    Raises:
        DataError: The data set has no such split.
        ImageError: There are no pictures.
    """
    try:
        find_layout(data)
    except DataError:
        pictures = list_pictures(data)
    else:
        pictures = [record.path for record in load_dataset(data, (split,)).records]
    return pictures[:: -(-len(pictures) // MAX_PICTURES)]


def read_input(path: Path, metadata: ModelMetadata) -> NDArray[np.uint8]:
    """``(1, H, W, 3)`` a picture as the network gets it.

    Raises:
        ImageError: It cannot be read.
    """
    picture = read_image(path, at_least=metadata.input_size)
    return metadata.letterbox(picture.size).apply(picture.pixels, metadata.padding_colour)[None]


def find_constant(detector: Detector, metadata: ModelMetadata, pictures: Sequence[Path]) -> dict[str, Tensor]:
    """Channels of depthwise layers whose output, behind batch norm and activation, is the same everywhere.

    The same: largest less smallest value over all positions of all pictures is below ``DEAD_BELOW``. So a ReLU that
    never opens counts, one that is always at 6, and an h-swish that stays at the end of its flat arm, where it is
    not quite zero.

    Args:
        detector: Left in evaluation mode.
        metadata: Of the detector.
        pictures: At least one.

    Returns:
        By the path of the convolution, ``(C,)`` flags.

    Raises:
        ImageError: A picture cannot be read.
    """
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str, block: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, __: object, output: Tensor) -> None:
            low, high = output.amin(dim=(0, 2, 3)), output.amax(dim=(0, 2, 3))
            before = ranges.get(name, (low, high))
            ranges[name] = torch.minimum(low, before[0]), torch.maximum(high, before[1])

        return block.register_forward_hook(note)

    handles = [
        watch(f"{name}.0", block)
        for name, block in detector.named_modules()
        if isinstance(block, ConvBlock) and isinstance(block[0], nn.Conv2d) and is_depthwise(block[0])
    ]
    backend = TorchBackend(detector, metadata)
    try:
        for picture in pictures:
            backend.run(read_input(picture, metadata))
    finally:
        for handle in handles:
            handle.remove()
    return {name: high - low < DEAD_BELOW for name, (low, high) in ranges.items()}
