"""A detector as an ExecuTorch program for XNNPACK: ``model.pte``, with its metadata in ``model.pte.json``."""

import logging
import warnings
from pathlib import Path

import torch

from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.sidecar import write_sidecar
from pocketdet.export.bytes_to_logits import BytesToLogits
from pocketdet.export.conversion import Conversion


def write(conversion: Conversion, path: Path) -> None:
    """Write a detector as a program whose one method, ``forward``, takes one picture.

    The input is uint8 ``(1, H, W, 3)`` RGB; the outputs are float32 raw logits ``(1, C, h, w)`` in the order of
    ``output_names``, because a program has no names for them.

    Args:
        conversion: What to write, in float32.
        path: The file; its folder exists.
    """
    logging.disable(logging.WARNING)  # its notes on what changes inside of torch
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path.write_bytes(_convert(conversion))
    finally:
        logging.disable(logging.NOTSET)
    update_metadata(path, conversion.metadata)


def update_metadata(path: Path, metadata: ModelMetadata) -> None:
    """Into the sidecar: a program has no room for it."""
    write_sidecar(path, metadata, [path])


def _convert(conversion: Conversion) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    images = torch.zeros(1, *conversion.metadata.input_size, 3, dtype=torch.uint8)
    program = torch.export.export(BytesToLogits(conversion.detector), (images,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    content: bytes = lowered.to_executorch().buffer
    return content
