"""A detector as one ONNX file, for ONNX Runtime and whatever else reads ONNX."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.seal import BLANK, SEAL_KEY, seal
from pocketdet.errors import MissingExtraError
from pocketdet.export.bytes_to_logits import BytesToLogits
from pocketdet.export.conversion import Conversion
from pocketdet.export.in_graph import append_boxes
from pocketdet.runtime.backends import INPUT_NAME, METADATA_KEY, output_names

if TYPE_CHECKING:
    import onnx

OPSET = 18


def write(conversion: Conversion, path: Path) -> None:
    """Write a detector as ONNX, weights and metadata in the one file.

    The input ``images`` is uint8 ``(B, H, W, 3)`` RGB with any B; the outputs are float32 raw logits, named
    ``boxes_p3``, ``objectness_p3``, ``classes_p3``, ``boxes_p4`` and so on.

    Args:
        conversion: What to write; "half" stores the weights of convolutions in 16 bits.
        path: The file; its folder exists.

    Raises:
        MissingExtraError: onnx or onnxscript is missing.
    """
    import onnx  # present: find_exporter has looked

    model = build_graph(conversion, swish_in_float=True)
    if conversion.precision == "int8":
        from pocketdet.export.rearrange import rearrange  # imports onnx

        rearrange(model)
    onnx.save(model, path)
    if conversion.precision == "half":
        _halve_weights(path)
    update_metadata(path, conversion.metadata)


def build_graph(conversion: Conversion, swish_in_float: bool = False) -> "onnx.ModelProto":
    """The network without metadata: in float, or with 8-bit integers.

    Behind it, where that is asked for, stands what makes boxes of its outputs, in float.

    Args:
        conversion: What to build.
        swish_in_float: See ``to_int8``.
    """
    from pocketdet.export.int8 import to_int8  # imports onnx

    model = float_graph(conversion)
    if conversion.precision == "int8":
        model = to_int8(model, conversion.calibration, conversion.tell, swish_in_float)
    if conversion.is_dynamic:
        _open_size(model.graph)
    if conversion.metadata.outputs != "logits":
        append_boxes(model, conversion.metadata)
    return model


def float_graph(conversion: Conversion) -> "onnx.ModelProto":
    """The float network of one size, by torch's exporter."""
    metadata = conversion.metadata
    network = BytesToLogits(conversion.detector)
    height, width = metadata.input_size
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            # Two pictures: the exporter would take a batch of one for a constant.
            (torch.zeros(2, height, width, 3, dtype=torch.uint8),),
            input_names=[INPUT_NAME],
            output_names=output_names(len(metadata.strides)),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
    assert program is not None
    _strip_notes(program)
    program.model.producer_name = "pocketdet"
    return program.model_proto


def update_metadata(path: Path, metadata: ModelMetadata) -> None:
    """Put metadata in a file and seal it."""
    import onnx  # present where the file was written

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata.to_json(), SEAL_KEY: BLANK})
    onnx.save(model, path)
    seal(path)


def _open_size(graph: "onnx.GraphProto") -> None:
    """Height and width get names instead of numbers; nothing within the network depends on them."""
    del graph.value_info[:]  # the sizes of what is in between
    for value in (*graph.input, *graph.output):
        axes = (1, 2) if value.name == INPUT_NAME else (2, 3)
        for axis, side in zip(axes, ("height", "width"), strict=True):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{side}_of_{value.name}"


def _halve_weights(path: Path) -> None:
    """Store weights as 16-bit integers with one scale an output channel; runtimes compute them once, at loading.

    Against float16 the error of the large weights, which decide, is 16 times smaller for the same bytes.
    """
    import onnx

    to_tensor = onnx.numpy_helper.from_array
    model = onnx.load(path)
    of_convolutions = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in of_convolutions]
    nodes = []
    for tensor in weights:
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        scale = np.maximum(np.abs(values).max(axis=(1, 2, 3), keepdims=True), 1e-30) / np.float32(32767)
        tensor.CopyFrom(to_tensor(np.round(values / scale).astype(np.int16), f"{name}_int16"))
        model.graph.initializer.append(to_tensor(scale.astype(np.float32), f"{name}_scale"))
        nodes.append(onnx.helper.make_node("Cast", [tensor.name], [f"{name}_float"], to=onnx.TensorProto.FLOAT))
        nodes.append(onnx.helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [name]))
    nodes.extend(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def _strip_notes(program: torch.onnx.ONNXProgram) -> None:
    """Drop the exporter's notes, paths of this machine among them, and attributes that only repeat a default.

    OpenCV 4.14 misreads a HardSigmoid with an explicit beta of 0.5.
    """
    graph = program.model.graph
    graph.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
        if node.op_type == "HardSigmoid" and node.attributes["beta"].as_float() == 0.5:
            node.attributes.pop("beta")


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's notes on torchvision and on what changes inside of PyTorch."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError('ONNX export needs onnx and onnxscript: pip install "pocketdet[export]"') from error
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
