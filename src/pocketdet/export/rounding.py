"""Round the weights of a convolution so that its outputs on real pictures change least, not the weights themselves.

One weight after the other is rounded, and those that are not yet take up the error, as far as the inputs of both go
together: GPTQ, 2210.17323 §3.3.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from pocketdet.export.watch import Floats, watch

WEIGHT_LIMIT = 127
MIN_SCALE = 1e-8
DAMPING = 0.01  # of the mean square of all inputs, as in the paper
MAX_WEIGHTS = 2048  # of an output channel; for more the matrices take gigabytes, and rounding to the nearest has to do
MAX_POSITIONS = 4096  # of a picture


def weight_scales(weight: Floats) -> Floats:
    """Of each output channel, one step of its integers.

    Kernels for x86 without VNNI add two products of an unsigned and a signed byte in 16 bits, so that no two weights
    may pass 128 together. A depthwise convolution is added up in 32 bits.
    """
    ordered = np.sort(weight.reshape(len(weight), -1))
    largest: Floats = np.maximum(ordered[:, -1], -ordered[:, 0])
    if weight.shape[1] > 1:
        largest = np.maximum(largest, _largest_pair(ordered))
    return np.maximum(largest / WEIGHT_LIMIT, MIN_SCALE)


def round_weights(model: onnx.ModelProto, names: set[str], pictures: NDArray[np.uint8]) -> dict[str, Floats]:
    """Whole numbers in place of the weights of a float graph's convolutions, in the steps of ``weight_scales``.

    Args:
        model: The inputs of its convolutions are activation, weight and bias.
        names: Tensors with enough values to learn from; convolutions of others are left out.
        pictures: ``(N, H, W, 3)`` letterboxed RGB.

    Returns:
        By the name of the convolution's output.
    """
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    convolutions = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[0] in names and arrays[node.input[1]][0].size <= MAX_WEIGHTS
    ]
    if not convolutions:
        return {}
    moments: dict[str, NDArray[np.float64]] = {}
    for values in watch(model, list(dict.fromkeys(node.input[0] for node in convolutions)), pictures):
        for node in convolutions:
            # Sums in 32 bits depend on their order, and so on the number of threads, and some weights on the sums.
            inputs = _inputs(node, values[node.input[0]][0], arrays[node.input[1]].shape).astype(np.float64)
            moment = inputs @ inputs.transpose(0, 2, 1) / inputs.shape[-1]
            moments[node.output[0]] = moments.get(node.output[0], 0) + moment
    return {node.output[0]: _round(arrays[node.input[1]], moments[node.output[0]]) for node in convolutions}


def _inputs(node: onnx.NodeProto, source: Floats, shape: tuple[int, ...]) -> Floats:
    """What the weights of each group are multiplied by, at some positions: ``(groups, weights, positions)``.

    Args:
        node: The convolution.
        source: ``(C, H, W)``
        shape: Of its weight.
    """
    given: Mapping[str, list[int]] = {a.name: list(a.ints) or [a.i] for a in node.attribute}
    top, left, bottom, right = given.get("pads", [0] * 4)
    rows, columns = given.get("strides", [1, 1])
    padded = np.pad(source, ((0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, shape[2:], axis=(1, 2))[:, ::rows, ::columns]
    windows = windows.reshape(len(source), -1, shape[2] * shape[3])
    windows = windows[:, :: -(-windows.shape[1] // MAX_POSITIONS)]
    return windows.transpose(0, 2, 1).reshape(len(source) // shape[1], shape[1] * shape[2] * shape[3], -1)


def _round(weight: Floats, moments: NDArray[np.float64]) -> Floats:
    """Whole numbers in the weight's shape.

    Args:
        weight: ``(out, in of a group, kernel, kernel)``
        moments: ``(groups, K, K)``, the mean product of each two of the K inputs of an output.
    """
    groups, size = moments.shape[:2]
    left = weight.reshape(groups, -1, size).astype(np.float64)
    scales = weight_scales(weight).reshape(groups, -1).astype(np.float64)
    rounded = np.empty_like(left)
    mean = np.trace(moments, axis1=1, axis2=2)[:, None, None] / size
    damped = moments + np.eye(size) * (DAMPING * mean + MIN_SCALE)
    spread = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)  # upper triangles
    for k in range(size):
        rounded[..., k] = np.clip(np.round(left[..., k] / scales), -WEIGHT_LIMIT, WEIGHT_LIMIT)
        error = (left[..., k] - rounded[..., k] * scales) / spread[:, k, k, None]
        left[..., k + 1 :] -= error[..., None] * spread[:, k, None, k + 1 :]
    flat, nearest = rounded.reshape(len(weight), -1), np.round(weight.reshape(len(weight), -1) / scales.reshape(-1, 1))
    if weight.shape[1] > 1:  # what took up errors may have grown
        flat = np.where(_largest_pair(np.sort(flat))[:, None] > WEIGHT_LIMIT + 1, nearest, flat)
    return flat.reshape(weight.shape).astype(np.float32)


def _largest_pair(ordered: Floats) -> Floats:
    """Of each row, ascending, the largest absolute sum of two values of one sign."""
    largest: Floats = np.maximum(ordered[:, -2:].sum(axis=1), -ordered[:, :2].sum(axis=1))
    return largest
