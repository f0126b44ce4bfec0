"""int8 graphs in the order that ONNX Runtime likes, against the same graphs as they were."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from pocketdet.core.metadata import ModelMetadata, Outputs
from pocketdet.export import int8, onnx_file
from pocketdet.export.conversion import Conversion
from pocketdet.export.quantise import measure, quantise
from pocketdet.export.rearrange import rearrange
from pocketdet.models.detector import Detector

Build = Callable[[ModelMetadata], Detector]
PICTURES = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), np.uint8)
V2 = ModelMetadata("mobilenet_v2", 0.35, 0.25, "same", ("cat", "dog"), (64, 96))


def quantised(build: Build, metadata: ModelMetadata, is_dynamic: bool = False) -> onnx.ModelProto:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "MAX_ERROR", np.inf)  # no search
        conversion = Conversion(build(metadata), metadata, "int8", is_dynamic=is_dynamic, calibration=PICTURES)
        return onnx_file.build_graph(conversion)


def run(model: onnx.ModelProto, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"images": images}))


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def first_kernel(model: onnx.ModelProto) -> tuple[int, ...]:
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    name = next(node for node in model.graph.node if node.op_type == "Conv").input[1]
    while name not in arrays:
        name = makers[name].input[0]
    return tuple(arrays[name].dims)


def groups(model: onnx.ModelProto) -> set[int]:
    """Of depthwise convolutions, their numbers of channels."""
    attributes = [attribute for node in model.graph.node if node.op_type == "Conv" for attribute in node.attribute]
    return {attribute.i for attribute in attributes if attribute.name == "group"} - {1}


@pytest.mark.parametrize(
    ("backbone", "padding", "kernel"),
    [
        ("mobilenet_v1", "same", (2 * 16, 12, 3, 2)),  # 8 of the 16 are zeros
        ("mobilenet_v2", "same", (2 * 16, 12, 3, 2)),
        ("mobilenet_v2", "symmetric", (2 * 16, 12, 3, 2)),
        ("mobilenet_v3_small_minimalistic", "same", (2 * 16, 12, 3, 2)),
        ("mobilenet_v3_small", "same", (2 * 8, 12, 3, 2)),
    ],
)
def test_the_outputs_stay_the_same(build_seasoned: Build, backbone: str, padding: str, kernel: tuple[int, ...]):
    width = 0.25 if backbone == "mobilenet_v1" else 0.35
    model = quantised(build_seasoned, dataclasses.replace(V2, backbone=backbone, width=width, padding=padding))
    expected = run(model, PICTURES)
    assert {"Resize", "Conv"} <= set(kinds(model))
    rearrange(model)
    onnx.checker.check_model(model, full_check=True)
    assert first_kernel(model) == kernel
    assert kinds(model).count("MatMulInteger") >= 3  # one a level
    assert "Resize" not in kinds(model)
    if backbone in ("mobilenet_v1", "mobilenet_v3_small_minimalistic"):
        assert {group % 16 for group in groups(model)} == {0}
    for ours, theirs in zip(run(model, PICTURES), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert np.ptp(theirs) > 0.01


@pytest.mark.parametrize("in_float", [0, 1], ids=["its pixels", "its outputs"])
def test_a_stem_that_computes_with_floats_stays(build_seasoned: Build, in_float: int):
    floats = onnx_file.float_graph(Conversion(build_seasoned(V2), V2))
    int8.level_channels(floats, PICTURES, lambda line: None)
    statistics = measure(floats, PICTURES)
    names = list(statistics.ranges)
    model = quantise(floats, statistics, names[:in_float] + names[in_float + 1 :])
    expected = run(model, PICTURES)
    rearrange(model)
    assert first_kernel(model)[1:] == (3, 3, 3)
    for ours, theirs in zip(run(model, PICTURES), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_what_nothing_reads_any_more_is_not_in_the_file(build_seasoned: Build):
    model = quantised(build_seasoned, V2)
    rearrange(model)
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    made = [name for node in model.graph.node for name in node.output]
    assert set(made) <= used | {output.name for output in model.graph.output}


def test_an_open_size_stays_open(build_seasoned: Build):
    model = quantised(build_seasoned, V2, is_dynamic=True)
    pictures = [PICTURES, PICTURES[:1, :32, :64]]
    expected = [run(model, images) for images in pictures]
    rearrange(model)
    assert kinds(model).count("Resize") == 2
    assert first_kernel(model)[1] == 12
    for images, theirs in zip(pictures, expected, strict=True):
        for a, b in zip(run(model, images), theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("outputs", ["decoded", "suppressed"])
def test_boxes_in_the_graph_stay_the_same(build_seasoned: Build, outputs: Outputs):
    model = quantised(build_seasoned, dataclasses.replace(V2, outputs=outputs))
    expected = run(model, PICTURES)
    rearrange(model)
    for ours, theirs in zip(run(model, PICTURES), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_an_int8_file_is_written_rearranged(build_seasoned: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(int8, "MAX_ERROR", np.inf)
    onnx_file.write(Conversion(build_seasoned(V2), V2, "int8", calibration=PICTURES), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert first_kernel(model)[1] == 12
    assert kinds(model).count("QuantizeLinear") > 100


def test_in_a_file_all_up_to_the_last_swish_is_floats(
    build_seasoned: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(int8, "MAX_ERROR", np.inf)
    metadata = dataclasses.replace(V2, backbone="mobilenet_v3_small")
    lines: list[str] = []
    conversion = Conversion(build_seasoned(metadata), metadata, "int8", calibration=PICTURES, tell=lines.append)
    onnx_file.write(conversion, tmp_path / "model.onnx")
    assert any("tensors up to the last h-swish stay in float" in line for line in lines)
    model = onnx.load(tmp_path / "model.onnx")
    order = kinds(model)
    last = len(order) - 1 - order[::-1].index("HardSwish")
    assert "QuantizeLinear" not in order[:last]
    assert order[last:].count("QuantizeLinear") > 40
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    pairs = {(makers[node.input[0]], makers[node.input[1]]) for node in model.graph.node if node.op_type == "Conv"}
    assert {weight for _, weight in pairs} == {"Mul", "DequantizeLinear"}
    assert {source for source, weight in pairs if weight == "DequantizeLinear"} == {"DequantizeLinear"}
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4 and min(tensor.dims[:2]) > 1]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}
    floats = onnx_file.float_graph(Conversion(build_seasoned(metadata), metadata))
    for ours, theirs in zip(run(model, PICTURES), run(floats, PICTURES), strict=True):
        assert 0 < np.sqrt(np.square(ours - theirs).mean()) < 0.3
