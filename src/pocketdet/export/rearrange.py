"""The integers of a quantised graph in an order that ONNX Runtime computes faster; OpenVINO gains nothing from it.

On one thread of an AMD EPYC with VNNI the packed stem took an eighth off ``animals``, joined outputs and repeated
pixels another tenth; padded channels took a seventh off V3-Large minimalistic. benchmarks/int8.py measures the whole.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pocketdet.export.quantise import FUSED

PACKED = 4  # columns of pixels; 2 gain nothing, 8 no more
CHANNELS_AT_ONCE = 16
BETWEEN = (*FUSED, "QuantizeLinear", "DequantizeLinear")  # two convolutions

Array = NDArray[Any]
Makers = dict[str, onnx.NodeProto]  # of each tensor
Readers = dict[str, list[onnx.NodeProto]]


def rearrange(model: onnx.ModelProto) -> None:
    """Change a graph as ``quantise`` leaves it; its outputs stay the same but for the last bits."""
    _pad_channels(model.graph)
    _pack_stem(model.graph)
    _join_outputs(model.graph)
    _repeat_pixels(model)
    _fold_weights(model.graph)
    graph = model.graph
    del graph.value_info[:]  # types that are no longer true
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _pad_channels(graph: onnx.GraphProto) -> None:
    """Give depthwise convolutions a multiple of 16 channels, by some that are zero.

    ONNX Runtime computes 16 at a time and the rest one by one: 72 channels take longer than 144.
    """
    arrays, makers, readers = _look(graph)
    for node in graph.node:
        if node.op_type != "Conv" or _attributes(node)["group"] == 1:
            continue
        missing = -len(arrays[makers[node.input[1]].input[0]]) % CHANNELS_AT_ONCE
        before, after = _maker_behind(node.input[0], makers), _readers_behind(node.output[0], readers)
        is_plain = all(other.op_type == "Conv" and _attributes(other)["group"] == 1 for other in (before, *after))
        if not missing or not after or not is_plain or _readers_behind(before.output[0], readers) != [node]:
            continue
        padded: dict[str, Array] = {}
        for convolution in (before, node):
            of_weight, bias = makers[convolution.input[1]].input, convolution.input[2]
            of_bias = makers[bias].input[:2] if bias in makers else [bias]  # its integers and their scale, or floats
            for name in (of_weight[0], of_bias[0]):
                padded[name] = np.pad(arrays[name], [(0, missing)] + [(0, 0)] * (arrays[name].ndim - 1))
            for name in (of_weight[1], *of_bias[1:]):
                padded[name] = np.pad(arrays[name], (0, missing), mode="edge")
        for convolution in after:
            name = makers[convolution.input[1]].input[0]
            padded[name] = np.pad(arrays[name], ((0, 0), (0, missing), (0, 0), (0, 0)))
        for name, array in padded.items():
            _set(graph, name, array)
        arrays |= padded  # a convolution may stand before one depthwise convolution and behind another
        next(attribute for attribute in node.attribute if attribute.name == "group").i += missing


def _maker_behind(name: str, makers: Makers) -> onnx.NodeProto:
    node = makers[name]
    return _maker_behind(node.input[0], makers) if node.op_type in BETWEEN else node


def _readers_behind(name: str, readers: Readers) -> list[onnx.NodeProto]:
    found = []
    for node in readers.get(name, []):
        found += _readers_behind(node.output[0], readers) if node.op_type in BETWEEN else [node]
    return found


def _pack_stem(graph: onnx.GraphProto) -> None:
    """Take four columns of pixels for one with 12 channels, and compute the two columns behind them as one.

    ONNX Runtime gathers what each output needs before it multiplies, of three channels three bytes at a time; that
    takes longer than the products, of which there are more now: most of the new weights are zeros.
    """
    arrays, makers, readers = _look(graph)
    stem = next(node for node in graph.node if node.op_type == "Conv")
    first, last = _maker_behind(stem.input[0], makers), _storing(stem, readers)
    if first.op_type != "Transpose" or last is None:
        return  # its input or its output is floats
    attributes = _attributes(stem)
    (top, left, bottom, _), (down, across) = attributes["pads"], attributes["strides"]
    of_weight, of_bias = (list(makers[name].input) for name in stem.input[1:])
    weight = arrays[of_weight[0]]
    packed, before, after = _packed_weight(weight, across, left)
    arrays[of_weight[0]] = packed
    for name in (of_weight[1], *of_bias[:2]):  # a value a channel
        arrays[name] = np.tile(arrays[name], len(packed) // len(weight))
    for name in (*of_weight[:2], *of_bias[:2]):
        _set(graph, name, arrays[name])
    attributes |= {"kernel_shape": packed.shape[2:], "pads": (top, before, bottom, after), "strides": (down, 1)}
    del stem.attribute[:]
    stem.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
    _set(graph, "packed_shape", np.array([0, 0, -1, PACKED * weight.shape[1]]))
    _set(graph, "unpacked_shape", np.array([0, 0, -1, len(weight)]))
    pixels, result = first.input[0], last.output[0]
    first.input[0], last.output[0] = f"{pixels}_packed", f"{result}_packed"
    _replace(
        graph,
        {
            first.output[0]: [_parse(f"{pixels}_packed = Reshape ({pixels}, packed_shape)"), first],
            last.output[0]: [
                last,
                _parse(f"{result}_packed_rows = Transpose <perm = [0, 2, 3, 1]> ({result}_packed)"),
                _parse(f"{result}_rows = Reshape ({result}_packed_rows, unpacked_shape)"),
                _parse(f"{result} = Transpose <perm = [0, 3, 1, 2]> ({result}_rows)"),
            ],
        },
    )


def _packed_weight(weight: Array, stride: int, left: int) -> tuple[Array, int, int]:
    """The kernel for packed columns, and how many of those it needs before and after the one that it stands on.

    Args:
        weight: ``(O, C, height, width)``.
        stride: From column to column.
        left: Columns of padding.
    """
    count, channels, height, width = weight.shape
    copies = PACKED // stride
    before = -(-left // PACKED)
    after = (stride * (copies - 1) - left + width - 1) // PACKED
    packed = np.zeros((copies, count, PACKED, channels, height, before + 1 + after), weight.dtype)
    for copy in range(copies):
        for column in range(width):
            place, within = divmod(stride * copy - left + column, PACKED)
            packed[copy, :, within, :, :, before + place] = weight[..., column]
    return packed.reshape(copies * count, PACKED * channels, height, -1), before, after


def _join_outputs(graph: onnx.GraphProto) -> None:
    """Compute pointwise convolutions whose outputs stay in float by integers, those of one tensor together.

    From bytes to floats ONNX Runtime has no convolution, it would turn the bytes into floats first; but it has a matrix
    product.
    """
    arrays, makers, readers = _look(graph)
    instead: dict[str, list[onnx.NodeProto]] = {}
    for name, convolutions in readers.items():
        is_bytes = name in makers and makers[name].op_type == "DequantizeLinear"
        if not is_bytes or not all(_joins(node, name, arrays, makers, readers) for node in convolutions):
            continue
        bytes_, scale, zero = makers[name].input
        parts = [[list(makers[part].input) for part in node.input[1:]] for node in convolutions]
        weights = [arrays[weight[0]][:, :, 0, 0].T for weight, _ in parts]  # (C, O)
        scales = [arrays[weight[1]] * arrays[scale] for weight, _ in parts]
        biases = [arrays[bias[0]] * arrays[bias[1]] for _, bias in parts]
        _set(graph, f"{name}_weights", np.concatenate(weights, axis=1))
        _set(graph, f"{name}_scales", np.concatenate(scales).astype(np.float32))
        _set(graph, f"{name}_biases", np.concatenate(biases).astype(np.float32))
        _set(graph, f"{name}_sizes", np.array([weight.shape[1] for weight in weights]))
        results = [node.output[0] for node in convolutions]
        instead |= {gone: [] for node in convolutions for gone in (node.output[0], *node.input[1:])}
        instead[name] = [
            _parse(f"{name}_rows = Transpose <perm = [0, 2, 3, 1]> ({bytes_})"),
            _parse(f"{name}_sums = MatMulInteger ({name}_rows, {name}_weights, {zero})"),
            _parse(f"{name}_numbers = Cast <to = 1> ({name}_sums)"),
            _parse(f"{name}_scaled = Mul ({name}_numbers, {name}_scales)"),
            _parse(f"{name}_joined = Add ({name}_scaled, {name}_biases)"),
            _parse(f"{name}_planes = Transpose <perm = [0, 3, 1, 2]> ({name}_joined)"),
            _parse(f"{', '.join(results)} = Split <axis = 1> ({name}_planes, {name}_sizes)"),
        ]
    _replace(graph, instead)


def _joins(node: onnx.NodeProto, source: str, arrays: dict[str, Array], makers: Makers, readers: Readers) -> bool:
    """Whether a node is a convolution that ``_join_outputs`` speaks of, of the tensor ``source``."""
    if node.op_type != "Conv" or node.input[0] != source:
        return False
    attributes = _attributes(node)
    is_simple = not any(attributes["pads"]) and attributes["strides"] == [1, 1] and attributes["group"] == 1
    is_pointwise = is_simple and arrays[makers[node.input[1]].input[0]].shape[2:] == (1, 1)
    return is_pointwise and _storing(node, readers) is None


def _repeat_pixels(model: onnx.ModelProto) -> None:
    """Repeat pixels, and then rows, as a whole; ONNX Runtime's ``Resize`` looks each byte up by itself.

    Where the size is open it stays.
    """
    graph = model.graph
    _set(graph, "repeated_axes", np.array([2, 4]))
    _set(graph, "repeats", np.array([1, 1, 2, 1, 2, 1]))
    instead: dict[str, list[onnx.NodeProto]] = {}
    arrays = _look(graph)[0]
    shapes = {
        value.name: value.type.tensor_type.shape for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    for node in graph.node:
        if node.op_type != "Resize" or arrays[node.input[2]].tolist() != [1, 1, 2, 2]:
            continue
        source, name = node.input[0], node.output[0]
        channels, height, width = (side.dim_value for side in shapes[name].dim[1:])
        if not (height and width):
            continue
        _set(graph, f"{name}_shape", np.array([0, height, width, channels]))
        instead[name] = [
            _parse(f"{name}_source = Transpose <perm = [0, 2, 3, 1]> ({source})"),
            _parse(f"{name}_once = Unsqueeze ({name}_source, repeated_axes)"),
            _parse(f"{name}_twice = Expand ({name}_once, repeats)"),
            _parse(f"{name}_rows = Reshape ({name}_twice, {name}_shape)"),
            _parse(f"{name} = Transpose <perm = [0, 3, 1, 2]> ({name}_rows)"),
        ]
    _replace(graph, instead)


def _fold_weights(graph: onnx.GraphProto) -> None:
    """Let convolutions that compute with floats have weights that ONNX Runtime turns into floats once, at loading.

    What it knows as quantised it leaves alone until it runs, and then cannot lay the weights out for its fast kernels.
    """
    arrays, makers, readers = _look(graph)
    instead: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        if makers[node.input[0]].op_type == "DequantizeLinear" and _storing(node, readers):
            continue  # it computes with integers
        weight, bias = node.input[1:]
        integers, scale = makers[weight].input
        _set(graph, f"{weight}_scales", arrays[scale].reshape(-1, 1, 1, 1))
        instead[weight] = [
            _parse(f"{weight}_numbers = Cast <to = 1> ({integers})"),
            _parse(f"{weight} = Mul ({weight}_numbers, {weight}_scales)"),
        ]
        if bias in makers:
            whole, bias_scale = (arrays[name] for name in makers[bias].input[:2])
            _set(graph, bias, (whole * bias_scale).astype(np.float32))
            instead[bias] = []
    _replace(graph, instead)


def _storing(convolution: onnx.NodeProto, readers: Readers) -> onnx.NodeProto | None:
    """What turns its output into bytes, behind the ReLU, if there is something."""
    node = convolution
    while (after := readers.get(node.output[0], [])) and after[0].op_type in FUSED:
        node = after[0]
    return after[0] if after and after[0].op_type == "QuantizeLinear" else None


def _look(graph: onnx.GraphProto) -> tuple[dict[str, Array], Makers, Readers]:
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: Readers = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return arrays, makers, readers


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _parse(line: str) -> onnx.NodeProto:
    return onnx.parser.parse_node(line)


def _set(graph: onnx.GraphProto, name: str, value: Array) -> None:
    tensor = next((tensor for tensor in graph.initializer if tensor.name == name), None) or graph.initializer.add()
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))


def _replace(graph: onnx.GraphProto, instead: dict[str, list[onnx.NodeProto]]) -> None:
    """Other nodes in place of the one that makes a tensor."""
    nodes = [other for node in graph.node for other in instead.get(node.output[0], [node])]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
