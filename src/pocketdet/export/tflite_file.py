"""A detector as one TFLite file, for LiteRT on phones and boards."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.tflite_archive import append_metadata, without_metadata
from pocketdet.export.bytes_to_logits import BytesToLogits
from pocketdet.export.conversion import Conversion
from pocketdet.export.tflite_choice import quantise_best
from pocketdet.export.tflite_graph import name_outputs, name_tensors, take_bytes
from pocketdet.export.tflite_int8 import measure


def write(conversion: Conversion, path: Path) -> None:
    """Write a detector as TFLite, weights and metadata in the one file.

    The input ``images`` is uint8 ``(1, H, W, 3)`` RGB; the outputs are float32 raw logits ``(1, h, w, C)``, in the
    order and by the names of ``boxes_p3``, ``objectness_p3``, ``classes_p3``, ``boxes_p4`` and so on.

    Args:
        conversion: What to write; "int8" has scales learned from its calibration pictures.
        path: The file; its folder exists.
    """
    num_levels = len(conversion.metadata.strides)
    network = name_tensors(_convert(conversion), num_levels)
    if conversion.precision == "int8":
        with _quiet_converter():
            statistics = measure(network, conversion.calibration)
            network = quantise_best(network, statistics, conversion.calibration, conversion.tell)
        network = name_outputs(network, num_levels)
    path.write_bytes(append_metadata(take_bytes(network), conversion.metadata))


def update_metadata(path: Path, metadata: ModelMetadata) -> None:
    """Put other metadata in a file and seal it."""
    path.write_bytes(append_metadata(without_metadata(path.read_bytes()), metadata))


def _convert(conversion: Conversion) -> bytes:
    """The network in float32, from pixels in float32."""
    with _quiet_converter():
        import litert_torch

        network = litert_torch.to_channel_last_io(
            BytesToLogits(conversion.detector), outputs=list(range(3 * len(conversion.metadata.strides)))
        )
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
