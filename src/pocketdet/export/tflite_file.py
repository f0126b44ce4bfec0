"""A detector as one TFLite file, for LiteRT on phones and boards."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.tflite_archive import append_metadata, without_metadata
from pocketdet.export import onnx_file
from pocketdet.export.bytes_to_logits import BytesToLogits
from pocketdet.export.conversion import Conversion
from pocketdet.export.tflite_graph import name_outputs, name_tensors, take_bytes
from pocketdet.export.tflite_int8 import halve, measure


def write(conversion: Conversion, path: Path) -> None:
    """Write a detector as TFLite, weights and metadata in the one file.

    The input ``images`` is uint8 ``(1, H, W, 3)`` RGB; the outputs are float32 raw logits ``(1, h, w, C)``, in the
    order and by the names of ``boxes_p3``, ``objectness_p3``, ``classes_p3``, ``boxes_p4`` and so on.

    Args:
        conversion: What to write; "half" stores weights as float16, "int8" has scales learned from its calibration
            pictures.
        path: The file; its folder exists.
    """
    num_levels = len(conversion.metadata.strides)
    if conversion.precision == "int8":
        content = _int8(conversion)
    else:
        network = name_tensors(_convert(BytesToLogits(conversion.detector), conversion), num_levels)
        if conversion.precision == "half":
            network = name_outputs(halve(network), num_levels)
        content = take_bytes(network)
    path.write_bytes(append_metadata(content, conversion.metadata))


def update_metadata(path: Path, metadata: ModelMetadata) -> None:
    """Put other metadata in a file and seal it."""
    path.write_bytes(append_metadata(without_metadata(path.read_bytes()), metadata))


def _int8(conversion: Conversion) -> bytes:
    """Channels are levelled in the ONNX graph, whose weights the network then has."""
    from pocketdet.export.int8 import level_channels  # imports onnx
    from pocketdet.export.levelled import LevelledToLogits
    from pocketdet.export.tflite_choice import quantise_best

    pictures, num_levels = conversion.calibration, len(conversion.metadata.strides)
    graph = onnx_file.float_graph(conversion)
    level_channels(graph, pictures, conversion.tell)
    levelled = LevelledToLogits(conversion.detector, graph.graph)
    network = name_tensors(_convert(levelled, conversion), num_levels)
    conversion.tell(f"int8: measuring how large values become on {len(pictures)} pictures")
    with _quiet_converter():
        statistics = measure(network, pictures, levelled.grey)
        network = quantise_best(network, statistics, pictures, conversion.tell)
    return take_bytes(name_outputs(network, num_levels), levelled.grey)


def _convert(network: nn.Module, conversion: Conversion) -> bytes:
    """A network in float32, from pixels in float32, ``(1, H, W, 3)``."""
    with _quiet_converter():
        import litert_torch

        outputs = list(range(3 * len(conversion.metadata.strides)))
        network = litert_torch.to_channel_last_io(network, outputs=outputs)
        model = litert_torch.convert(network.eval(), (torch.zeros(1, *conversion.metadata.input_size, 3),))
        content: bytes = model.model_content()
    return content


@contextlib.contextmanager
def _quiet_converter() -> Iterator[None]:
    """Without the converter's notes on its progress and on what changes inside of its libraries."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
