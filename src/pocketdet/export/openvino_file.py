"""A detector as an OpenVINO model: ``model.xml``, ``model.bin`` and the sidecar ``model.xml.json``."""

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.sidecar import write_sidecar
from pocketdet.export import onnx_file
from pocketdet.export.conversion import Conversion

if TYPE_CHECKING:
    import onnx


def write(conversion: Conversion, path: Path) -> None:
    """Write a detector for OpenVINO: its ONNX graph, in float or with 8-bit integers, read by OpenVINO.

    Not by OpenVINO's ``convert_model``, which wants to send statistics over the network. What that does to the graph is
    done to one with 8-bit integers, too: as it is read it has four nodes for each one that is needed.

    Args:
        conversion: What to write; "half" stores weights as float16.
        path: The ``.xml`` file; its folder exists.

    Raises:
        MissingExtraError: onnx or onnxscript is missing.
    """
    import openvino

    graph = onnx_file.build_graph(conversion)
    is_int8 = conversion.precision == "int8"
    if is_int8:
        _float_biases(graph)
    source = path.with_suffix(".onnx")
    source.write_bytes(graph.SerializeToString())
    model = openvino.Core().read_model(source)
    if is_int8:
        from openvino._offline_transformations import apply_moc_transformations  # as NNCF does; there is no other way

        apply_moc_transformations(model, cf=False)
    openvino.save_model(model, path, compress_to_fp16=conversion.precision == "half")
    del model  # it maps the file
    source.unlink()
    _shorten(path)
    update_metadata(path, conversion.metadata)


def update_metadata(path: Path, metadata: ModelMetadata) -> None:
    """Write the sidecar."""
    write_sidecar(path, metadata, [path, path.with_suffix(".bin")])


def _float_biases(model: "onnx.ModelProto") -> None:
    """In place of those of 32-bit integers, which OpenVINO turns into float itself, by a dozen nodes each."""
    import onnx

    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    biases = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in arrays]
    for node in biases:
        integers, scale = (onnx.numpy_helper.to_array(arrays[name]) for name in node.input[:2])
        if integers.dtype == np.int32:
            bias = onnx.numpy_helper.from_array(integers.astype(np.float32) * scale, node.output[0])
            model.graph.node.remove(node)
            model.graph.initializer.append(bias)
            for name in node.input[:2]:
                model.graph.initializer.remove(arrays.pop(name))


def _shorten(path: Path) -> None:
    """Leave out of the ``.xml`` what OpenVINO does not read or has twice: half of it.

    These are shapes within the network, which it infers anew, the names of constants' tensors, equal constants, and
    white space.
    """
    tree = ElementTree.parse(path)
    layers, edges = (tree.getroot().find(name) for name in ("layers", "edges"))
    assert layers is not None
    assert edges is not None
    first_of: dict[str, str] = {}  # of equal constants
    instead: dict[str, str] = {}
    for layer in list(layers):
        for port in layer.iterfind("*/port"):
            for side in port.findall("dim"):
                port.remove(side)
        for port in layer.iterfind("input/port"):
            port.attrib.pop("precision", None)
        if layer.get("type") == "Const":
            for port in layer.iterfind("output/port"):
                port.attrib.pop("names", None)
            number = layer.attrib["id"]
            contents = "".join(ElementTree.tostring(part, "unicode").strip() for part in layer)
            instead[number] = first_of.setdefault(contents, number)
            if instead[number] != number:
                layers.remove(layer)
    for edge in edges:
        edge.set("from-layer", instead.get(edge.attrib["from-layer"], edge.attrib["from-layer"]))
    for element in tree.iter():
        element.text = element.text and element.text.strip()
        element.tail = None
    tree.write(path, encoding="utf-8", xml_declaration=True)
