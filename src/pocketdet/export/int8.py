"""A float ONNX graph becomes one that computes with 8-bit integers, as far as that costs little."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from pocketdet.core.decode import sigmoid
from pocketdet.export.centre import centre
from pocketdet.export.equalise import equalise
from pocketdet.export.quantise import Statistics, measure, quantise
from pocketdet.export.rounding import round_weights
from pocketdet.export.watch import Floats, measure_peaks, watch

PEAK_PICTURES = 24
ROUNDING_PICTURES = 24
JUDGE_PICTURES = 32
SEARCH_PICTURES = 3
# Of the raw outputs, as ``_Judge`` weighs them. On 260 pictures of voc12-animals' train split that are none of the
# calibration's, ``animals-small`` loses no AP at 0.2; on ``val`` it lost 2.1 points of AP50 at 0.25.
MAX_ERROR = 0.2
COUNTS_IN_FLOAT = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32)  # more would leave a float network with 8-bit weights


def to_int8(
    model: onnx.ModelProto, pictures: NDArray[np.uint8], tell: Callable[[str], None], swish_in_float: bool = False
) -> onnx.ModelProto:
    """Quantise a detector after its training.

    Where its outputs suffer too much, each tensor is judged as the only one in bytes, and the worst stay in float.

    Args:
        model: As ``onnx_file`` writes it in float; it is changed.
        pictures: ``(N, H, W, 3)`` letterboxed RGB.
        tell: Takes lines on what is done, and a table of what stays in float.
        swish_in_float: Leave what lies before the last h-swish in float, for a runtime that computes it in float anyway
            and would go to bytes and back between any two layers.
    """
    judge, quick_judge = (_Judge(model, _spread(pictures, most)) for most in (JUDGE_PICTURES, SEARCH_PICTURES))
    level_channels(model, pictures, tell)
    tell(f"int8: measuring how large values become on {len(pictures)} pictures")
    statistics = measure(model, pictures, lambda done: tell(f"int8: {done} of {len(pictures)} pictures"))
    names = list(statistics.ranges)
    weights = round_weights(model, set(names), _spread(pictures, ROUNDING_PICTURES))
    statistics = dataclasses.replace(statistics, weights=weights)
    if swish_in_float:
        names = _behind_swish(model.graph, names)
    if count := len(statistics.ranges) - len(names):
        tell(f"int8: {count} tensors up to the last h-swish stay in float, which this runtime computes sooner")
    whole = judge.error(quantise(model, statistics, names))
    if whole <= MAX_ERROR:
        others = "other tensors" if count else "tensors"
        tell(f"int8: all {len(names)} {others} are bytes: error {whole:.3f} (limit {MAX_ERROR})")
        return quantise(model, statistics, names)
    tell(f"int8: error {whole:.3f} with {len(names)} tensors in bytes (limit {MAX_ERROR}); judging them one by one")
    alone = {name: quick_judge.error(quantise(model, statistics, [name])) for name in names}
    names.sort(key=lambda name: -alone[name])
    for count in COUNTS_IN_FLOAT:
        result = quantise(model, statistics, names[count:])
        left = judge.error(result)
        if left <= MAX_ERROR:
            break
    _tell_table(model, names[:count], alone, statistics, tell)
    tell(f"int8: {count} of {len(names)} tensors stay in float: error {whole:.3f} -> {left:.3f}")
    return result


def _behind_swish(graph: onnx.GraphProto, names: Sequence[str]) -> list[str]:
    places = {node.output[0]: place for place, node in enumerate(graph.node)}
    last = max((place for place, node in enumerate(graph.node) if node.op_type == "HardSwish"), default=-1)
    return [name for name in names if places[name] > last]


def level_channels(model: onnx.ModelProto, pictures: NDArray[np.uint8], tell: Callable[[str], None]) -> None:
    """Scale the channels of a float graph and shift its pixels, so that bytes hold both well; see ``to_int8``."""
    tell(f"int8: equalising the channels on {min(len(pictures), PEAK_PICTURES)} pictures")
    _give_biases(model)
    _round_mean(model)
    centre(model, _spread(pictures, PEAK_PICTURES))
    equalise(model, measure_peaks(model, _spread(pictures, PEAK_PICTURES)))


class _Judge:
    """How far the raw outputs of a graph are from those of the float one, where an object may be.

    Args:
        model: In float.
        pictures: To compare on.
    """

    def __init__(self, model: onnx.ModelProto, pictures: NDArray[np.uint8]) -> None:
        self._pictures = pictures
        self._names = [output.name for output in model.graph.output]
        self._truth = list(watch(model, self._names, pictures))

    def error(self, model: onnx.ModelProto) -> float:
        """As ``logits_error``."""
        return logits_error(self._truth, watch(model, self._names, self._pictures))


def logits_error(truths: Iterable[Mapping[str, Floats]], pictures: Iterable[Mapping[str, Floats]]) -> float:
    """Root of the mean square of the difference of all logits, each weighed by the objectness of its cell.

    Args:
        truths: Of each picture the outputs by their names, ``(1, C, H, W)``.
        pictures: The same, of the network that is judged.
    """
    total = weight = 0.0
    for truth, values in zip(truths, pictures, strict=True):
        for name in truth:
            level = name.rpartition("_")[2]
            objectness = sigmoid(truth[f"objectness_{level}"])[:, :, None]  # (B, A, 1, H, W)
            batch, num_anchors, _, height, width = objectness.shape
            square = np.square(truth[name] - values[name]).reshape(batch, num_anchors, -1, height, width)
            total += float((square.mean(axis=2, keepdims=True) * objectness).sum())
            weight += float(objectness.sum())
    return float(np.sqrt(total / weight))


def _tell_table(
    model: onnx.ModelProto,
    names: Sequence[str],
    alone: dict[str, float],
    statistics: Statistics,
    tell: Callable[[str], None],
) -> None:
    layers, layer = {}, "input"
    for node in model.graph.node:
        layer = node.input[1].removesuffix(".weight") if node.op_type == "Conv" else layer
        layers[node.output[0]] = (layer, node.op_type)
    tell(f"{'in float: the output of':44}  {'operation':10}  {'error alone':>11}  range")
    for name in names:
        low, high = statistics.ranges[name]
        tell(f"{layers[name][0]:44}  {layers[name][1]:10}  {alone[name]:11.3f}  {low:.1f} to {high:.1f}")


def _give_biases(model: onnx.ModelProto) -> None:
    """To every convolution one of its own; the exporter shares equal ones and leaves zeros out."""
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":
            zeros = np.zeros(len(arrays[node.input[1]]), np.float32)
            bias: Floats = arrays[node.input[2]] if len(node.input) > 2 else zeros
            name = f"{node.output[0]}_own_bias"
            model.graph.initializer.append(onnx.numpy_helper.from_array(bias, name))
            del node.input[2:]
            node.input.append(name)


def _round_mean(model: onnx.ModelProto) -> None:
    """Subtract one whole number from all pixels, so that bytes hold the difference; the first bias takes up the rest.

    Where the convolution pads with zeros that is wrong, by the rest: ten grey levels with ImageNet's mean.
    """
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    subtraction = next(node for node in model.graph.node if node.op_type == "Sub")
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    mean, weight, bias = (onnx.numpy_helper.to_array(arrays[name]) for name in (subtraction.input[1], *stem.input[1:]))
    whole = np.full_like(mean, np.round(mean.mean()))
    bias = bias + weight.sum(axis=(2, 3)) @ (whole - mean).reshape(-1)
    for name, array in ((subtraction.input[1], whole), (stem.input[2], bias)):
        arrays[name].CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name))


def _spread(pictures: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    return pictures[:: -(-len(pictures) // most)]
