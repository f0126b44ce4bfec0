"""Small changes to a TFLite network: names that people can read, and bytes as its input."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.runtime.backends import INPUT_NAME, output_names

CONSTANT_ALIGNMENT = 16  # bytes


def name_tensors(content: bytes, num_levels: int) -> bytes:
    """Give input and outputs the names and the order of the contract, and all else its layer's name in the detector.

    Args:
        content: A network from the converter: one input, and outputs in their order.
        num_levels: Three outputs each.
    """
    model = read_graph(content)
    [graph] = model.subgraphs
    [signature] = model.signatureDefs
    constants = {number for number, buffer in enumerate(model.buffers) if buffer.data is not None}
    for number, operator in enumerate(graph.operators):
        [result] = operator.outputs
        layer = f"{layer_name(graph.tensors[result].name.decode())}:{number}"
        graph.tensors[result].name = layer
        for index in operator.inputs:
            if graph.tensors[index].buffer in constants:
                graph.tensors[index].name = f"{layer}:{index}"
    by_name = {output.name.decode(): output.tensorIndex for output in signature.outputs}
    graph.outputs = [by_name[f"output_{n}"] for n in range(3 * num_levels)]
    for output, index, name in zip(signature.outputs, graph.outputs, output_names(num_levels), strict=True):
        output.name, output.tensorIndex = name, index
        graph.tensors[index].name = name
    [signature.inputs[0].name, graph.tensors[graph.inputs[0]].name] = [INPUT_NAME, INPUT_NAME]
    return write_graph(model)


def name_outputs(content: bytes, num_levels: int) -> bytes:
    """Give the outputs of a quantised network their names back, in the order that they have kept."""
    model = read_graph(content)
    [graph] = model.subgraphs
    for index, name in zip(graph.outputs, output_names(num_levels), strict=True):
        graph.tensors[index].name = name
    return write_graph(model)


def layer_name(path: str) -> str:
    """Of the converter's ``__main__.A/b.c.Neck_neck/d.Sequential_top_down_p4/...;1``: ``neck.top_down_p4``."""
    parts = re.split("[;:]", path)[0].split("/")[1:]
    return ".".join(part.rpartition(".")[2].partition("_")[2] for part in parts).removeprefix("wrapped.")


def take_bytes(content: bytes, grey: int = 0) -> bytes:
    """Let a network that takes pixels as float32, or as int8 with 128 subtracted, take them as uint8.

    An operation in front turns one into the other, exactly: the scale of both is 1.

    Args:
        content: The network.
        grey: What its pixels are less; the zero point of the bytes.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = read_graph(content)
    [graph] = model.subgraphs
    [pixels] = graph.inputs
    is_float = graph.tensors[pixels].type == schema.TensorType.FLOAT32
    images = schema.TensorT()
    images.name, images.type, images.shape = INPUT_NAME, schema.TensorType.UINT8, graph.tensors[pixels].shape
    images.buffer = 0  # the empty one
    images.quantization = schema.QuantizationParametersT()
    images.quantization.scale = np.ones(1, np.float32)
    images.quantization.zeroPoint = np.full(1, grey, np.int64)
    graph.tensors[pixels].name = f"{INPUT_NAME}_{'float' if is_float else 'int8'}"
    graph.tensors.append(images)
    operator = schema.OperatorT()
    kind = schema.BuiltinOperator.DEQUANTIZE if is_float else schema.BuiltinOperator.QUANTIZE
    operator.opcodeIndex = _operator_code(model, kind)
    operator.inputs, operator.outputs = [len(graph.tensors) - 1], [pixels]
    graph.operators.insert(0, operator)
    graph.inputs = operator.inputs
    model.signatureDefs[0].inputs[0].tensorIndex = operator.inputs[0]
    return write_graph(model)


def read_graph(content: bytes) -> Any:
    """A TFLite file as objects."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # behind the graph, as the quantiser writes it
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def write_graph(model: Any) -> bytes:
    """What ``read_graph`` read.

    Equal arrays are written once: a quantised network has eight bytes of zeros for each channel of each tensor, a tenth
    of the file of a V3-Small. Constants begin at a multiple of 16 bytes, as TFLite's schema wants them, which the
    Python package that writes such files does not see to.
    """
    import flatbuffers

    class Builder(flatbuffers.Builder):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__(1 << 20)
            self._written: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: NDArray[Any]) -> int:
            key = (x.dtype.str, x.tobytes())
            if key not in self._written:
                if x.dtype == np.uint8:
                    self.Prep(CONSTANT_ALIGNMENT, x.size)
                self._written[key] = super().CreateNumpyVector(x)
            return self._written[key]

    builder = Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _operator_code(model: Any, kind: int) -> int:
    """Its index in the model, which has it afterwards if it did not before."""
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == kind:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
