"""Move the channels of linear tensors so that zero is in the middle of their values, without changing the results.

What a channel is moved by where it is made, the biases of the convolutions that read it take back, as 1906.04721
does with high biases. That is exact where they pad with no zeros: for 1 x 1 convolutions, and no others read the linear
bottlenecks of MobileNet V2 and V3. A channel there may lie between 4 and 7, and one scale a tensor would spend most of
its steps on 0 to 4.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from pocketdet.export.watch import Floats, watch


def centre(model: onnx.ModelProto, pictures: NDArray[np.uint8]) -> None:
    """Change biases of a graph's convolutions in place.

    Args:
        model: Its convolutions have weight and bias of their own.
        pictures: ``(N, H, W, 3)`` letterboxed, on which the values are watched.
    """
    graph = model.graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in graph.initializer}
    middles = _measure_middles(model, _find_movable(graph, arrays), pictures)
    moved: dict[str, Floats] = {}
    for node in graph.node:
        source, result = node.input[0], node.output[0]
        if node.op_type == "Conv" and source in moved:
            arrays[node.input[2]] = arrays[node.input[2]] + arrays[node.input[1]][:, :, 0, 0] @ moved[source]
        if node.op_type == "Conv" and result in middles:
            moved[result] = middles[result]
            arrays[node.input[2]] = arrays[node.input[2]] - moved[result]
        elif node.op_type == "Add" and result in middles:
            moved[result] = sum((moved[name] for name in node.input if name in moved), np.zeros_like(middles[result]))
    del graph.initializer[:]
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())


def _find_movable(graph: onnx.GraphProto, arrays: Mapping[str, NDArray[np.float32]]) -> list[str]:
    """Tensors that nothing but 1 x 1 convolutions read, directly or behind a shortcut's addition."""
    outputs = {output.name for output in graph.output}
    movable: list[str] = []

    def takes_back(reader: onnx.NodeProto) -> bool:
        if reader.op_type != "Conv":
            return reader.op_type == "Add" and reader.output[0] in movable
        given = {attribute.name: attribute for attribute in reader.attribute}
        pads = list(given["pads"].ints) if "pads" in given else []
        is_grouped = "group" in given and given["group"].i > 1
        return arrays[reader.input[1]].shape[2:] == (1, 1) and not any(pads) and not is_grouped

    for node in reversed(graph.node):
        result = node.output[0]
        readers = [other for other in graph.node if result in other.input]
        if node.op_type in ("Conv", "Add") and result not in outputs and readers and all(map(takes_back, readers)):
            movable.append(result)
    return movable


def _measure_middles(model: onnx.ModelProto, names: list[str], pictures: NDArray[np.uint8]) -> dict[str, Floats]:
    """Of each tensor and channel, half of its smallest and its largest value."""
    low: dict[str, Floats] = {}
    high: dict[str, Floats] = {}
    for values in watch(model, names, pictures) if names else ():
        for name, value in values.items():
            smallest, largest = value.min(axis=(0, 2, 3)), value.max(axis=(0, 2, 3))
            low[name] = np.minimum(low.get(name, smallest), smallest)
            high[name] = np.maximum(high.get(name, largest), largest)
    return {name: np.asarray((low[name] + high[name]) / 2, np.float32) for name in low}
