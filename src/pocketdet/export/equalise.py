"""Scale the channels within a float graph so that one scale a tensor serves all of them, without changing its results.

A channel that is multiplied where it is made and divided where it is read changes nothing in between if what lies there
is homogeneous: cross-layer equalisation, 1906.04721 §4.1, here over channels of any graph. ReLU6 is, for a channel that
stays below 6 and is multiplied by more than 1; h-swish is not.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

Floats = NDArray[np.float32]
SAME_CHANNELS = ("Relu", "Clip", "Add", "MaxPool", "Resize", "ReduceMean")
CLIP = 6.0
MARGIN = 1.5  # over the peak of a channel on the calibration pictures, before ReLU6 cuts it
MOST = 1000.0  # a channel that is nearly silent gains nothing from more


def equalise(model: onnx.ModelProto, peaks: Mapping[str, Floats]) -> None:
    """Rescale the weights of a graph's convolutions in place.

    Args:
        model: Its convolutions have weight and bias of their own.
        peaks: Of each tensor between its nodes, the largest absolute value a channel.
    """
    graph = model.graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    groups = _tie(graph, peaks)
    factors = _choose(graph, peaks, groups, arrays)
    for node in convolutions:
        weight = arrays[node.input[1]]
        out = factors[groups[node.output[0]]]
        weight *= out[:, None, None, None]
        arrays[node.input[2]] = arrays[node.input[2]] * out
        into = factors[groups[node.input[0]]].reshape(-1, weight.shape[1])  # a row a group of the convolution
        weight /= into.repeat(len(weight) // len(into), axis=0)[:, :, None, None]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += _scaled(node, factors, groups, arrays) if node.op_type == "HardSwish" else [node]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())


def _scaled(
    node: onnx.NodeProto, factors: Floats, groups: Mapping[str, NDArray[np.int64]], arrays: dict[str, Floats]
) -> list[onnx.NodeProto]:
    """An activation between the scales of its input and its output, which are of no matter to it."""
    source, result = node.input[0], node.output[0]
    arrays[f"{result}_divisor"] = np.float32(1) / factors[groups[source]][None, :, None, None]
    arrays[f"{result}_factor"] = factors[groups[result]][None, :, None, None]
    node.input[0], node.output[0] = f"{result}_in", f"{result}_out"
    return [
        onnx.helper.make_node("Mul", [source, f"{result}_divisor"], [f"{result}_in"]),
        node,
        onnx.helper.make_node("Mul", [f"{result}_out", f"{result}_factor"], [result]),
    ]


def _tie(graph: onnx.GraphProto, peaks: Mapping[str, Floats]) -> dict[str, NDArray[np.int64]]:
    """Of each tensor a number a channel; channels of one number have to be scaled alike, and number 0 by 1."""
    numbers: dict[str, NDArray[np.int64]] = {}
    total = 1
    for name, peak in peaks.items():
        numbers[name] = np.arange(total, total + len(peak))
        total += len(peak)
    parent = np.arange(total)

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = int(parent[index])
        return index

    def unite(ones: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        for one, other in zip(ones.tolist(), np.broadcast_to(others, ones.shape).tolist(), strict=True):
            low, high = sorted((find(one), find(other)))
            parent[high] = low

    fixed = np.zeros(1, np.int64)
    for name in {output.name for output in graph.output} & numbers.keys():
        unite(numbers[name], fixed)
    for node in graph.node:
        result = node.output[0]
        sources = [name for name in node.input if name in numbers]
        if node.op_type in SAME_CHANNELS:
            for name in sources:
                unite(numbers[result], numbers[name])
        elif node.op_type == "Mul":  # squeeze-and-excitation: the gate keeps its values
            unite(numbers[result], numbers[node.input[0]])
            unite(numbers[node.input[1]], fixed)
        elif node.op_type == "Concat":
            unite(numbers[result], np.concatenate([numbers[name] for name in node.input]))
        elif node.op_type not in ("Conv", "HardSwish"):
            for name in (*sources, *(name for name in (result,) if name in numbers)):
                unite(numbers[name], fixed)
    return {name: np.array([find(index) for index in indices.tolist()]) for name, indices in numbers.items()}


def _choose(
    graph: onnx.GraphProto,
    peaks: Mapping[str, Floats],
    groups: Mapping[str, NDArray[np.int64]],
    arrays: Mapping[str, NDArray[np.float32]],
) -> Floats:
    """A factor a number of ``_tie``."""
    total = max(int(numbers.max()) for numbers in groups.values()) + 1
    activation, weight, room = np.zeros(total), np.zeros(total), np.full(total, np.inf)
    for name, numbers in groups.items():
        np.maximum.at(activation, numbers, peaks[name] / max(float(peaks[name].max()), 1e-12))
    for node in graph.node:
        read = groups.get(node.input[0])
        if node.op_type == "Conv" and read is not None:
            kernel = np.abs(arrays[node.input[1]]).max(axis=(2, 3))
            if kernel.shape[1] > 1:
                share = kernel / np.maximum(kernel.max(axis=1, keepdims=True), 1e-12)
                np.maximum.at(weight, read, share.max(axis=0))
        if node.op_type == "Clip":
            np.minimum.at(room, groups[node.output[0]], CLIP / MARGIN / np.maximum(peaks[node.output[0]], 1e-12))
    activation = np.maximum(activation, 1e-12)
    # What h-swish or depthwise convolutions alone read, with a scale a channel, can be levelled at no cost for weights.
    factors = np.where(weight > 0, np.sqrt(weight / activation), 1 / activation)
    is_clipped = np.isfinite(room)
    factors = np.where(is_clipped, np.clip(factors, 1, np.maximum(room, 1)), factors)
    factors = np.clip(factors, 1 / MOST, MOST)
    factors[0] = 1
    return factors.astype(np.float32)
