import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError
from pocketdet.export import int8, onnx_file, openvino_file
from pocketdet.export.conversion import Conversion
from pocketdet.export.levelled import LevelledToLogits
from pocketdet.export.watch import watch
from pocketdet.models.detector import Detector, build_from_metadata
from pocketdet.runtime.backends import OnnxBackend, open_backend

METADATA = ModelMetadata("mobilenet_v3_small", 0.35, 0.25, "same", ("cat", "dog"), (64, 64))
PICTURES = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory, build_seasoned: Callable[[ModelMetadata], Detector]) -> Path:
    """A small detector in float, with squeeze-and-excitation and h-swish."""
    detector = build_seasoned(METADATA)
    path = tmp_path_factory.mktemp("int8") / "float.onnx"
    onnx_file.write(Conversion(detector, METADATA), path)
    return path


@pytest.fixture(scope="module")
def bytes_(floats: Path) -> tuple[Path, list[str]]:
    lines: list[str] = []
    path = floats.with_name("int8.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "MAX_ERROR", np.inf)  # the search, which takes its time, has a test of its own
        onnx.save(int8.to_int8(onnx.load(floats), PICTURES, lines.append), path)
    onnx_file.update_metadata(path, METADATA)
    return path, lines


def test_a_quantised_graph_has_byte_weights_and_no_stale_types(floats: Path, bytes_: tuple[Path, list[str]]):
    graph = onnx.load(bytes_[0]).graph
    assert not graph.value_info
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4}
    weights = {kinds[node.input[0]] for node in graph.node if node.op_type == "DequantizeLinear"
               and node.input[0] in kinds}  # fmt: skip
    assert weights == {onnx.TensorProto.INT8}
    stored = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(stored) > 60


def test_a_torch_network_takes_the_levelled_weights_and_computes_what_the_graph_computes(
    floats: Path, build_seasoned: Callable[[ModelMetadata], Detector]
):
    model = onnx.load(floats)
    names = [output.name for output in model.graph.output]
    [before] = watch(model, names, PICTURES[:1])
    int8.level_channels(model, PICTURES, lambda line: None)
    [expected] = watch(model, names, PICTURES[:1])
    network = LevelledToLogits(build_seasoned(METADATA), model.graph)
    with torch.inference_mode():
        found = network(torch.from_numpy(PICTURES[:1]).float() - network.grey)
    for name, values in zip(names, found, strict=True):
        np.testing.assert_allclose(values.numpy(), expected[name], atol=1e-4)
        assert np.abs(before[name] - expected[name]).max() < 0.1  # the border, where zeros are another grey


def test_outputs_stay_near_those_of_the_float_file(floats: Path, bytes_: tuple[Path, list[str]]):
    expected, found = (OnnxBackend(path).run(PICTURES[:2]) for path in (floats, bytes_[0]))
    for ours, theirs in zip(expected, found, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(a - b).max() > 0
            assert np.sqrt(np.square(a - b).mean()) < 0.5
    assert "equalising" in bytes_[1][0]


@pytest.fixture
def openvino_model(monkeypatch: pytest.MonkeyPatch, bytes_: tuple[Path, list[str]], tmp_path: Path) -> Path:
    pytest.importorskip("openvino")
    monkeypatch.setattr(onnx_file, "build_graph", lambda conversion: onnx.load(bytes_[0]))
    openvino_file.write(Conversion(build_from_metadata(METADATA), METADATA, "int8"), tmp_path / "model.xml")
    return tmp_path / "model.xml"


def test_openvino_computes_what_onnx_runtime_computes_of_the_same_graph(
    openvino_model: Path, bytes_: tuple[Path, list[str]]
):
    assert sorted(p.name for p in openvino_model.parent.iterdir()) == ["model.bin", "model.xml", "model.xml.json"]
    expected, found = OnnxBackend(bytes_[0]).run(PICTURES[:2]), open_backend(openvino_model, 1).run(PICTURES[:2])
    for ours, theirs in zip(expected, found, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape
            assert np.sqrt(np.square(a - b).mean()) < 0.3
    assert open_backend(openvino_model).metadata == METADATA


def test_openvinos_graph_is_not_spelt_out_node_by_node(openvino_model: Path):
    graph = openvino_model.read_text(encoding="utf-8")
    assert graph.count('type="FakeQuantize"') > 60
    assert not re.findall('type="(ShapeOf|Broadcast|Minimum|Maximum)"', graph)
    assert graph.count('element_type="i8"') == 110  # convolutions
    assert 'element_type="i32"' not in graph


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "model.xml.json"])
def test_a_missing_or_changed_file_of_an_openvino_model_is_named(openvino_model: Path, name: str):
    path = openvino_model.with_name(name)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(ModelFileError, match=name):
        open_backend(openvino_model)
    path.unlink()
    with pytest.raises(ModelFileError, match=name):
        open_backend(openvino_model)


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 2)])
def test_openvino_answers_several_threads_at_once(openvino_model: Path, threads: int, streams: int):
    backend = open_backend(openvino_model, threads, streams)
    alone = [backend.run(PICTURES[n : n + 1])[0].boxes for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda n: backend.run(PICTURES[n % 4 : n % 4 + 1])[0].boxes, range(32)))
    for n, boxes in enumerate(together):
        np.testing.assert_array_equal(boxes, alone[n % 4])
