"""Post-training quantisation of a TFLite network to 8-bit integers, or of its weights to float16.

Weights have one scale an output channel, activations one a tensor: 1806.08342 §3. What the rounding of weights shifts
the outputs of a convolution by on average, its bias takes back: 1906.04721 §4.2.
"""

import contextlib
import copy
import dataclasses
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import Floats
from pocketdet.export.tflite_graph import read_graph, write_graph
from pocketdet.runtime.backends import INPUT_NAME

WEIGHT_LIMIT = 127
SAMPLES_PER_PICTURE = 1000


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What calibration pictures tell of the tensors of a network.

    Args:
        ranges: (low, high) of each, as a byte tells it apart best; zero is within.
        means: Of each that a convolution reads, a value a channel.
    """

    ranges: dict[str, tuple[float, float]]
    means: dict[str, Floats]


def measure(content: bytes, pictures: NDArray[np.uint8], grey: int) -> Statistics:
    """Run a float network on pictures, ``(N, H, W, 3)``, less a shade of grey, and watch the values of its tensors."""
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it keeps all tensors, which is the purpose
        interpreter: Any = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    [graph] = read_graph(content).subgraphs
    names = {index: graph.tensors[index].name.decode() for operator in graph.operators for index in operator.outputs}
    random = np.random.default_rng(0)
    samples: dict[str, list[Floats]] = {name: [] for name in names.values()}
    means: dict[str, Floats] = {}
    for picture in pictures:
        interpreter.set_tensor(graph.inputs[0], picture[None].astype(np.float32) - grey)
        interpreter.invoke()
        for index, name in names.items():
            values = interpreter.get_tensor(index)
            flat = values.reshape(-1)
            some = flat[random.integers(0, flat.size, SAMPLES_PER_PICTURE)]
            samples[name].append(np.append(some, (flat.min(), flat.max())))
            mean = values.mean(axis=tuple(range(values.ndim - 1))) / np.float32(len(pictures))
            means[name] = means.get(name, np.float32(0)) + mean
    ranges = {name: _best_range(np.concatenate(values)) for name, values in samples.items()}
    ranges[INPUT_NAME] = (-float(grey), 255.0 - grey)
    means[INPUT_NAME] = pictures.mean(axis=(0, 1, 2), dtype=np.float32) - np.float32(grey)
    return Statistics(ranges, means)


def quantise(content: bytes, statistics: Statistics, in_float: Sequence[str]) -> bytes:
    """A network whose input and inner tensors are signed bytes; its outputs stay in float.

    Args:
        content: In float, its tensors named by ``name_tensors``.
        statistics: Of it.
        in_float: Patterns of the names of layers that compute in float; their weights are bytes all the same.
    """
    from ai_edge_quantizer import qtyping, quantizer, recipe

    operations = qtyping.TFLOperationName
    with contextlib.redirect_stderr(io.StringIO()):  # bars of progress
        quantise = quantizer.Quantizer(bytearray(_correct_biases(content, statistics)), recipe.static_wi8_ai8())
        quantise.update_quantization_recipe(".*", operations.OUTPUT, algorithm_key="no_quantize")
        for pattern in in_float:
            quantise.update_quantization_recipe(pattern, operations.ALL_SUPPORTED, algorithm_key="no_quantize")
            for operation in (operations.CONV_2D, operations.DEPTHWISE_CONV_2D):
                quantise.add_weight_only_config(pattern, operation, 8)
        ranges = {
            name: {"min": np.full((1, 1, 1, 1), low, np.float32), "max": np.full((1, 1, 1, 1), high, np.float32)}
            for name, (low, high) in statistics.ranges.items()
        }
        result = quantise.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def halve(content: bytes) -> bytes:
    """A network that stores the weights of its convolutions as float16, and computes in float32."""
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    operations = qtyping.TFLOperationName
    with contextlib.redirect_stderr(io.StringIO()):  # bars of progress
        casting = quantizer.Quantizer(bytearray(content))
        for operation in (operations.CONV_2D, operations.DEPTHWISE_CONV_2D):
            casting.add_weight_only_config(
                ".*", operation, 16, algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING
            )
        return bytes(casting.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)


def float_layers(content: bytes) -> list[str]:
    """Patterns of the names of layers that always compute in float.

    They are squeeze-and-excitations, which stand behind an average over a picture, and h-swish, whose channels have
    scales of their own.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = read_graph(content)
    [graph] = model.subgraphs
    layers = [
        graph.tensors[operator.outputs[0]].name.decode().partition(":")[0]
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode
        in (schema.BuiltinOperator.MEAN, schema.BuiltinOperator.HARD_SWISH)
    ]
    return [rf"^{re.escape(layer)}(\.\w+)?:" for layer in dict.fromkeys(layers)]


def _best_range(values: Floats) -> tuple[float, float]:
    """Both ends drawn in until the mean square of rounding and clipping is smallest."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 1e-6)
    best = (np.inf, low, high)
    for share in np.linspace(1, 0.3, 15):
        scale = (high - low) * share / 255
        zero = np.round(-low * share / scale)
        rounded = (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale
        best = min(best, (float(np.square(rounded - values).mean()), low * share, high * share))
    return best[1:]


def _correct_biases(content: bytes, statistics: Statistics) -> bytes:
    from ai_edge_litert import schema_py_generated as schema

    model = read_graph(content)
    [graph] = model.subgraphs
    axes = {schema.BuiltinOperator.CONV_2D: 0, schema.BuiltinOperator.DEPTHWISE_CONV_2D: 3}  # of output channels
    biases: dict[int, Floats] = {}  # as they were: the converter lets layers share equal ones
    for operator in graph.operators:
        axis = axes.get(model.operatorCodes[operator.opcodeIndex].builtinCode)
        if axis is None:
            continue
        mean = statistics.means[graph.tensors[operator.inputs[0]].name.decode()]
        shift = _shift(_constant(model, operator.inputs[1]), axis, mean)
        index = int(operator.inputs[2])
        is_shared = index in biases
        bias = biases.setdefault(index, _constant(model, index))
        if is_shared:
            graph.tensors.append(copy.copy(graph.tensors[index]))
            graph.tensors[-1].name = f"{graph.tensors[operator.outputs[0]].name.decode()}:bias"
            index = len(graph.tensors) - 1
            operator.inputs = [*operator.inputs[:2], index]
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = (bias + shift).astype(np.float32).view(np.uint8)
        graph.tensors[index].buffer = len(model.buffers) - 1
    used = {tensor.buffer for tensor in graph.tensors} | {entry.buffer for entry in model.metadata or ()}
    for number, buffer in enumerate(model.buffers):
        buffer.data = buffer.data if number in used else None
    return write_graph(model)


def _constant(model: Any, index: int) -> Floats:
    [graph] = model.subgraphs
    tensor = graph.tensors[index]
    values: Floats = model.buffers[tensor.buffer].data.view(np.float32).reshape(tensor.shape)
    return values


def _shift(weight: Floats, axis: int, mean: Floats) -> Floats:
    """What rounding takes from each output channel on average; ``axis`` is theirs, 0 of a convolution, 3 depthwise."""
    scale = np.abs(weight).max(axis=tuple({0, 1, 2, 3} - {axis}), keepdims=True) / WEIGHT_LIMIT
    error = weight - np.round(weight / np.maximum(scale, 1e-12)) * scale
    shift: Floats = (error.sum(axis=(1, 2)) @ mean) if axis == 0 else error.sum(axis=(0, 1, 2)) * mean
    return shift
