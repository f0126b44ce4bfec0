"""A detector as an OpenVINO model: ``model.xml``, ``model.bin`` and the sidecar ``model.xml.json``."""

from pathlib import Path

from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.sidecar import write_sidecar
from pocketdet.export import onnx_file
from pocketdet.export.conversion import Conversion


def write(conversion: Conversion, path: Path) -> None:
    """Write a detector for OpenVINO: its ONNX graph, in float or with 8-bit integers, read by OpenVINO.

    Not by OpenVINO's ``convert_model``, which wants to send statistics over the network.

    Args:
        conversion: What to write; "half" stores weights as float16.
        path: The ``.xml`` file; its folder exists.

    Raises:
        MissingExtraError: onnx or onnxscript is missing.
    """
    import openvino

    source = path.with_suffix(".onnx")
    onnx_file.write_graph(conversion, source)
    model = openvino.Core().read_model(source)
    openvino.save_model(model, path, compress_to_fp16=conversion.precision == "half")
    del model  # it maps the file
    source.unlink()
    update_metadata(path, conversion.metadata)


def update_metadata(path: Path, metadata: ModelMetadata) -> None:
    """Write the sidecar."""
    write_sidecar(path, metadata, [path, path.with_suffix(".bin")])
