"""int8 on graphs of a few nodes, whose numbers can be followed by hand."""

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pocketdet.export import int8
from pocketdet.export.centre import centre
from pocketdet.export.equalise import equalise
from pocketdet.export.quantise import Statistics, quantise
from pocketdet.export.watch import measure_peaks, watch

Floats = NDArray[np.float32]
LEVELS = onnxruntime.GraphOptimizationLevel


def build(nodes: list[onnx.NodeProto], arrays: dict[str, Floats], source: onnx.ValueInfoProto, *outputs: str):
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "net", [source], results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model: onnx.ModelProto, images: NDArray[np.generic], level: object = LEVELS.ORT_ENABLE_ALL) -> Floats:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {model.graph.input[0].name: images})[0]


@pytest.mark.parametrize(("group", "kernel"), [(1, 1), (1, 3), (16, 3)])
def test_integer_kernels_do_not_overflow_at_the_largest_bytes(group: int, kernel: int):
    """On x86 without VNNI this fails with full 8-bit weights; elsewhere it cannot."""
    weight = np.ones((16, 16 // group, kernel, kernel))
    model = build(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Conv", ["a", "w", "b"], ["c"], group=group),
            helper.make_node("Relu", ["c"], ["d"]),
            helper.make_node("Relu", ["d"], ["y"]),
        ],
        {"w": weight, "b": np.zeros(16)},
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 8, 8]),
        "y",
    )
    most = float(weight[0].size)
    result = quantise(model, Statistics({"a": (0.0, 1.0), "d": (0.0, most)}, {}), ["a", "d"])
    images = np.ones((1, 16, 8, 8), np.float32)
    np.testing.assert_allclose(run(model, images), most)
    np.testing.assert_allclose(run(result, images), most, rtol=1 / 128)
    np.testing.assert_array_equal(run(result, images), run(result, images, LEVELS.ORT_DISABLE_ALL))


def build_detector(mean: tuple[float, float, float]) -> onnx.ModelProto:
    """A stem, a ReLU, and one convolution for the objectness."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
        helper.make_node("Conv", ["centred", "stem.weight", "stem.bias"], ["stem"]),
        helper.make_node("Relu", ["stem"], ["features"]),
        helper.make_node("Conv", ["features", "head.weight", "head.bias"], ["objectness_p3"]),
    ]
    arrays = {
        "mean": np.reshape(mean, (1, 3, 1, 1)),
        "stem.weight": random.normal(0, 0.02, (4, 3, 1, 1)),
        "stem.bias": random.normal(0, 1, 4),
        "head.weight": random.normal(0, 1, (1, 4, 1, 1)),
        "head.bias": np.zeros(1),
    }
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 8, 8, 3])
    return build(nodes, arrays, images, "objectness_p3")


PICTURES = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), np.uint8)


def test_pixels_less_a_whole_mean_give_the_same_network():
    model = build_detector((127.5, 103.53, 116.28))
    expected = run(model, PICTURES[:1])
    int8._round_mean(model)
    found = next(tensor for tensor in model.graph.initializer if tensor.name == "mean")
    np.testing.assert_array_equal(numpy_helper.to_array(found).ravel(), [116, 116, 116])
    np.testing.assert_allclose(run(model, PICTURES[:1]), expected, atol=1e-5)


def test_the_tensor_that_harms_most_stays_in_float_and_is_named(monkeypatch: pytest.MonkeyPatch):
    """Pixels are whole numbers, which bytes hold exactly: what the ReLU gives is what suffers."""
    pictures = PICTURES.copy()
    pictures[:, 0, 0], pictures[:, 0, 1] = 0, 255
    monkeypatch.setattr(int8, "MAX_ERROR", 1e-9)
    monkeypatch.setattr(int8, "COUNTS_IN_FLOAT", (1,))
    lines: list[str] = []
    result = int8.to_int8(build_detector((127.5, 127.5, 127.5)), pictures, lines.append)
    stored = {node.input[0] for node in result.graph.node if node.op_type == "QuantizeLinear"}
    assert stored == {"centred"}
    assert lines[-2].split()[:2] == ["stem", "Relu"]
    assert "1 of 2 tensors stay in float" in lines[-1]


def test_a_network_that_suffers_little_is_all_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(int8, "MAX_ERROR", 10.0)
    lines: list[str] = []
    result = int8.to_int8(build_detector((127.5, 127.5, 127.5)), PICTURES, lines.append)
    stored = {node.input[0] for node in result.graph.node if node.op_type == "QuantizeLinear"}
    assert stored == {"centred", "features"}
    assert "all 2 tensors are bytes" in lines[-1]


def test_equalising_levels_what_h_swish_reads_and_changes_no_result():
    random = np.random.default_rng(0)
    model = build_detector((127.5, 127.5, 127.5))
    model.graph.node[4].op_type = "HardSwish"
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    uneven = random.normal(0, 0.02, (4, 3, 1, 1)) * np.reshape([1, 8, 3, 20], (4, 1, 1, 1))
    arrays["stem.weight"].CopyFrom(numpy_helper.from_array(uneven.astype(np.float32), "stem.weight"))
    expected, before = run(model, PICTURES[:1]), measure_peaks(model, PICTURES)["stem"]
    assert before.max() > 5 * before.min()
    equalise(model, measure_peaks(model, PICTURES))
    np.testing.assert_allclose(run(model, PICTURES[:1]), expected, rtol=1e-4, atol=1e-4)
    [divide] = [node for node in model.graph.node if node.output[0] == "features_in"]
    divisor = next(tensor for tensor in model.graph.initializer if tensor.name == divide.input[1])
    levelled = before / numpy_helper.to_array(divisor).ravel()
    np.testing.assert_allclose(levelled, levelled.max(), rtol=1e-4)


@pytest.mark.parametrize(("kernel", "moved"), [(1, {"stem", "branch", "sum"}), (3, set())])
def test_centring_moves_what_1x1_convolutions_read_and_changes_no_result(kernel: int, moved: set[str]):
    """A convolution that pads with zeros would see the border move."""
    random = np.random.default_rng(0)
    model = build(
        [
            helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["planes"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["pixels", "w", "b"], ["stem"]),
            helper.make_node("Conv", ["stem", "v", "c"], ["branch"]),
            helper.make_node("Add", ["stem", "branch"], ["sum"]),
            helper.make_node("Conv", ["sum", "u", "d"], ["y"], pads=[kernel // 2] * 4),
        ],
        {
            "w": random.normal(0, 0.02, (4, 3, 1, 1)),
            "b": np.array([-40, 0, 5, 60]),
            "v": random.normal(0, 0.5, (4, 4, 1, 1)),
            "c": random.normal(0, 20, 4),
            "u": random.normal(0, 0.5, (2, 4, kernel, kernel)),
            "d": np.zeros(2),
        },
        helper.make_tensor_value_info("images", TensorProto.UINT8, [1, *PICTURES.shape[1:]]),
        "y",
    )
    names = ["stem", "branch", "sum"]
    expected, before = run(model, PICTURES[:1]), next(watch(model, names, PICTURES[:1]))
    centre(model, PICTURES[:1])
    np.testing.assert_allclose(run(model, PICTURES[:1]), expected, rtol=1e-4, atol=1e-3)
    after = next(watch(model, names, PICTURES[:1]))
    assert {name for name in names if np.abs(after[name] - before[name]).max() > 1} == moved
    for name in moved - {"sum"}:
        low, high = (limit(after[name], axis=(0, 2, 3)) for limit in (np.min, np.max))
        np.testing.assert_allclose(low, -high, atol=1e-3)
