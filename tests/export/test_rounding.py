"""Rounding the weights of convolutions so that their outputs change little."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pocketdet.export.rounding import round_weights, weight_scales
from pocketdet.export.watch import watch

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), np.uint8)


def build(group: int, kernel: int, stride: int = 1, pads: tuple[int, int, int, int] = (0, 0, 0, 0)) -> onnx.ModelProto:
    """Sixteen channels that go together, as those of a network do, and a convolution of them."""
    random = np.random.default_rng(1)
    arrays = {
        "mix": random.normal(0, 0.01, (16, 3, 1, 1)),
        "none": np.zeros(16),
        "weight": random.normal(0, 1, (16, 16 // group, kernel, kernel)),
        "bias": random.normal(0, 1, 16),
    }
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "mix", "none"], ["mixed"]),
        helper.make_node("Relu", ["mixed"], ["features"]),
        helper.make_node(
            "Conv", ["features", "weight", "bias"], ["y"], group=group, strides=[stride, stride], pads=list(pads)
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 12, 12, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def output_error(model: onnx.ModelProto, weight: NDArray[np.float32]) -> float:
    """Root of the mean square of what another weight changes."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    next(t for t in changed.graph.initializer if t.name == "weight").CopyFrom(numpy_helper.from_array(weight, "weight"))
    pairs = zip(watch(model, ["y"], PICTURES), watch(changed, ["y"], PICTURES), strict=True)
    return float(np.sqrt(np.mean([np.square(a["y"] - b["y"]).mean() for a, b in pairs])))


@pytest.mark.parametrize(
    ("group", "kernel", "stride", "pads"),
    [
        (1, 1, 1, (0, 0, 0, 0)),
        (1, 3, 2, (0, 0, 1, 1)),
        (16, 3, 1, (1, 1, 1, 1)),
        (16, 5, 2, (1, 1, 2, 2)),
        (4, 1, 1, (0,) * 4),
    ],
)
def test_outputs_change_less_than_by_rounding_to_the_nearest(
    group: int, kernel: int, stride: int, pads: tuple[int, int, int, int]
):
    model = build(group, kernel, stride, pads)
    weight = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "weight"))
    rounded = round_weights(model, {"features"}, PICTURES)
    assert rounded.keys() == {"y"}
    scales = weight_scales(weight)[:, None, None, None]
    np.testing.assert_array_equal(rounded["y"], np.round(rounded["y"]))
    assert np.abs(rounded["y"]).max() <= 127
    ours, nearest = (output_error(model, whole * scales) for whole in (rounded["y"], np.round(weight / scales)))
    assert 0 < ours < 0.97 * nearest


def test_two_weights_of_one_sign_share_a_step_that_sixteen_bits_can_add():
    pointwise = np.array([[3, 2, -4], [3, -1, -4], [0, 0, 7], [-5, -5, 1]], np.float32)[:, :, None, None]
    np.testing.assert_array_equal(weight_scales(pointwise), np.float32([5, 5, 7, 10]) / 127)
    depthwise = np.array([[3, 2, -4], [5, 5, 5]], np.float32)[:, None, None, :]
    np.testing.assert_array_equal(weight_scales(depthwise), np.float32([4, 5]) / 127)


def test_no_two_weights_of_one_sign_pass_what_sixteen_bits_can_add():
    whole = round_weights(build(1, 1), {"features"}, PICTURES)["y"].reshape(16, -1)
    ordered = np.sort(whole)
    assert ordered[:, -2:].sum(axis=1).max() <= 128
    assert ordered[:, :2].sum(axis=1).min() >= -128


def test_a_convolution_of_other_tensors_is_left_out():
    assert round_weights(build(1, 1), {"mixed"}, PICTURES) == {}
