"""Post-training quantisation of an ONNX graph: 8-bit integers between ``QuantizeLinear`` and ``DequantizeLinear``.

Activations are unsigned with one scale a tensor, weights signed with one scale an output channel: 1806.08342 §3.
A runtime computes a convolution with integers where its input and its output are stored as bytes, else in float. The
weights are bytes in any case, so the file's size does not depend on what stays in float.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pocketdet.export.rounding import MIN_SCALE, weight_scales
from pocketdet.export.watch import Floats, before_swish, watch

Scale = tuple[Floats, NDArray[np.uint8]]  # of one step, and the byte that means 0
Arrays = dict[str, NDArray[Any]]
LEVELS = 255  # of an activation, above zero
BIAS_LIMIT = 2**30  # of 32-bit integers; a channel whose weights are nearly nothing would pass it
KEEPS_SCALE = ("MaxPool", "Resize")
FUSED = ("Clip", "Relu")  # into the convolution in front
STORABLE = ("Sub", "Conv", "Add", "Mul", "Concat", "HardSigmoid", *KEEPS_SCALE, *FUSED)
SAMPLES_PER_PICTURE = 500
PROGRESS_EVERY = 50


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What calibration pictures tell of the tensors that can be stored as bytes, in the order of the graph.

    Args:
        ranges: (low, high) of each, as one byte tells it apart best; zero is within.
        means: Of each, a value a channel.
        weights: Of convolutions, whole numbers, as ``round_weights`` found them; those of others are the nearest ones.
    """

    ranges: Mapping[str, tuple[float, float]]
    means: Mapping[str, Floats]
    weights: Mapping[str, Floats] = dataclasses.field(default_factory=dict)


def measure(
    model: onnx.ModelProto, pictures: NDArray[np.uint8], progress: Callable[[int], None] = lambda done: None
) -> Statistics:
    """Run a float graph on pictures, ``(N, H, W, 3)``, and watch the values of its tensors.

    Args:
        model: As ``equalise`` leaves it.
        pictures: Letterboxed.
        progress: Takes the number of pictures done, now and then.
    """
    names = _storable(model.graph)
    swished = before_swish(model.graph)
    swished |= {node.input[0] for node in model.graph.node if node.output[0] in swished}  # and what is scaled for it
    random = np.random.default_rng(0)
    low, high = (dict.fromkeys(names, 0.0) for _ in range(2))
    means: dict[str, Floats] = {}
    samples: dict[str, list[Floats]] = {name: [] for name in names}
    for done, values in enumerate(watch(model, names, pictures)):
        if done and done % PROGRESS_EVERY == 0:
            progress(done)
        for name, value in values.items():
            flat = value.reshape(-1)
            low[name], high[name] = min(low[name], float(flat.min())), max(high[name], float(flat.max()))
            step = max(1, flat.size // SAMPLES_PER_PICTURE)
            samples[name].append(flat[random.integers(step) :: step].copy())
            means[name] = means.get(name, np.float32(0)) + value.mean(axis=(0, 2, 3)) / len(pictures)
    for name in swished & low.keys():
        low[name] = max(low[name], -high[name])  # h-swish turns to 0 what is far below it
    ranges = {name: _best_range(np.concatenate(samples[name]), low[name], high[name]) for name in names}
    return Statistics(ranges, means)


def quantise(model: onnx.ModelProto, statistics: Statistics, stored: Collection[str]) -> onnx.ModelProto:
    """A copy of a graph with 8-bit weights, in which some tensors are bytes.

    Args:
        model: In float; the inputs of a convolution are activation, weight and bias, each its own.
        statistics: Of it.
        stored: The tensors that become bytes, of those in the statistics.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    arrays: Arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales: dict[str, Scale] = {}
    joined = _joined(graph, stored)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        name, source = node.output[0], node.input[0]
        if node.op_type == "Conv":
            nodes += _quantise_weights(node, scales.get(source), statistics, arrays)
        for index, value in enumerate(node.input):
            if value in scales:
                node.input[index] = f"{value}_float"
        if node.op_type == "Sub" and name in stored:  # of the pixels, which are bytes before their cast to float
            scales[name] = np.ones((), np.float32), arrays[node.input[1]].reshape(-1)[0].astype(np.uint8)
            node = onnx.helper.make_node(
                "DequantizeLinear", [nodes.pop().input[0], f"{name}_scale", f"{name}_zero"], [name]
            )
        elif name in stored:
            keeps = node.op_type in KEEPS_SCALE and source in scales
            scales[name] = scales[source] if keeps else _scale(*statistics.ranges[joined.get(name, name)])
        nodes.append(node)
        if name in scales:
            arrays |= {f"{name}_scale": scales[name][0], f"{name}_zero": scales[name][1]}
            nodes += _pair(name)
    del graph.node[:], graph.initializer[:]
    del graph.value_info[:]  # types that are no longer true; OpenVINO would believe them
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = {name: array for name, array in arrays.items() if name in used}
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in kept.items())
    return result


def _storable(graph: onnx.GraphProto) -> list[str]:
    """Tensors within a graph that a runtime can store as bytes; not those that a kernel changes at once by ReLU.

    Single values, as squeeze-and-excitation has them behind its average, are not worth it.
    """
    inner = {node.input[0] for node in graph.node if node.op_type in FUSED} | before_swish(graph)
    outputs = {output.name for output in graph.output}
    single = set()
    for node in graph.node:
        if node.op_type == "ReduceMean" or (node.input[0] in single and node.op_type in ("Conv", *FUSED)):
            single.add(node.output[0])
    names = [node.output[0] for node in graph.node if node.op_type in STORABLE]
    return [name for name in names if name not in inner | single | outputs]


def _joined(graph: onnx.GraphProto, stored: Collection[str]) -> dict[str, str]:
    """Tensors that nothing but a concatenation reads, at its inputs or behind what keeps their scale, and its output.

    With the scale of the output they are rounded once, and a runtime copies bytes.
    """
    ends: dict[str, set[str]] = {}  # of each tensor, where what reads it leads to
    for node in reversed(graph.node):
        name = node.output[0]
        if node.op_type == "Concat":
            its_ends = {name if name in stored else ""}
        else:
            its_ends = ends.get(name, {""}) if node.op_type in KEEPS_SCALE and name in stored else {""}
        for source in node.input:
            ends[source] = ends.get(source, set()) | its_ends
    return {name: min(its_ends) for name, its_ends in ends.items() if len(its_ends) == 1 and its_ends != {""}}


def _best_range(values: Floats, low: float, high: float) -> tuple[float, float]:
    """Both ends of a tensor drawn in until the mean square of its rounding and clipping is smallest."""
    best = (np.inf, low, high)
    for share in np.linspace(1, 0.2, 17):
        scale = max((high - low) * share / LEVELS, MIN_SCALE)
        zero = np.round(-low * share / scale)
        rounded = (np.clip(np.round(values / scale) + zero, 0, LEVELS) - zero) * scale
        best = min(best, (float(np.square(rounded - values).mean()), low * share, high * share))
    return best[1:]


def _scale(low: float, high: float) -> Scale:
    scale = max((high - low) / LEVELS, MIN_SCALE)
    return np.asarray(scale, np.float32), np.asarray(np.round(-low / scale), np.uint8)


def _quantise_weights(
    node: onnx.NodeProto, source: Scale | None, statistics: Statistics, arrays: Arrays
) -> list[onnx.NodeProto]:
    """Of a convolution; what the rounding shifts its outputs by on average, its bias takes back: 1906.04721 §4.2.

    The bias becomes integers, too, where the input is bytes: in the scale that the products have.
    """
    name, weight, bias = node.output[0], arrays[node.input[1]], arrays[node.input[2]]
    scale = own_scale = weight_scales(weight)
    if source is not None:
        scale = np.maximum(scale, np.abs(bias) / source[0] / BIAS_LIMIT)
    nearest = np.round(weight / scale[:, None, None, None])
    is_own = (scale == own_scale)[:, None, None, None]
    integers = np.where(is_own, statistics.weights.get(name, nearest), nearest)
    mean = statistics.means.get(node.input[0])
    if mean is not None:
        error = (weight - integers * scale[:, None, None, None]).sum(axis=(2, 3))  # (out, in of a group)
        means = mean.reshape(-1, error.shape[1])  # a row a group
        bias = bias + (error * means.repeat(len(error) // len(means), axis=0)).sum(axis=1)
    arrays[f"{name}_weight"], arrays[f"{name}_weight_scale"] = integers.astype(np.int8), scale.astype(np.float32)
    parts = [f"{name}_weight"]
    if source is None:
        arrays[node.input[2]] = bias.astype(np.float32)
    else:
        parts.append(f"{name}_bias")
        bias_scale = scale * source[0]
        arrays[f"{name}_bias"] = np.round(bias / bias_scale).astype(np.int32)
        arrays[f"{name}_bias_scale"] = bias_scale.astype(np.float32)
    for index, part in enumerate(parts, 1):
        node.input[index] = f"{part}_float"
    return [
        onnx.helper.make_node("DequantizeLinear", [part, f"{part}_scale"], [f"{part}_float"], axis=0) for part in parts
    ]


def _pair(name: str) -> list[onnx.NodeProto]:
    scale, zero = f"{name}_scale", f"{name}_zero"
    return [
        onnx.helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_bytes"]),
        onnx.helper.make_node("DequantizeLinear", [f"{name}_bytes", scale, zero], [f"{name}_float"]),
    ]
