"""A TFLite file written by hand, on LiteRT: no converter is needed to run one."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pocketdet import load
from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.tflite_archive import append_metadata
from pocketdet.errors import ModelFileError
from pocketdet.runtime.backends import open_backend, output_names

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")


class Graph:
    """As little of a TFLite file as the tests need."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.operatorCodes, self.model.buffers = 3, [], [schema.BufferT()]
        self.model.subgraphs = [self.graph]
        self.graph.tensors, self.graph.operators, self.graph.outputs = [], [], []

    def tensor(self, name: str, shape: tuple[int, ...], values: np.ndarray | None = None, kind: str = "FLOAT32") -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, shape, 0
        tensor.type = getattr(schema.TensorType, kind)
        if values is not None:
            self.model.buffers.append(schema.BufferT())
            self.model.buffers[-1].data = values.astype(np.float32).view(np.uint8).reshape(-1)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, kind: str, inputs: list[int], output: int, options: str = "", **settings: int) -> None:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = 1
        self.model.operatorCodes.append(code)
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self.model.operatorCodes) - 1, inputs, [output]
        if options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in settings.items():
                setattr(operator.builtinOptions, name, value)
        self.graph.operators.append(operator)

    def to_bytes(self) -> bytes:
        flatbuffers = pytest.importorskip("flatbuffers")
        builder = flatbuffers.Builder(0)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def write_tiny_tflite(path: Path, metadata: ModelMetadata) -> Path:
    """The network of ``conftest.write_tiny_model``: a cell is an object if it is bright, and red or blue."""
    network = Graph()
    images = network.tensor("images", (1, 64, 64, 3), kind="UINT8")
    pixels = network.tensor("pixels", (1, 64, 64, 3))
    network.graph.inputs = [images]
    network.operator("CAST", [images], pixels, "CastOptions")
    objectness, classes = np.zeros((3, 3)), np.zeros((3, 2, 3))
    objectness[0], classes[:, 0], classes[:, 1] = 20, (20, 0, -20), (-20, 0, 20)
    parts = {"boxes": (np.zeros((12, 3)), 0), "objectness": (objectness, -10), "classes": (classes.reshape(6, 3), 0)}
    names = iter(output_names(3))
    for stride in (8, 16, 32):
        cells = 64 // stride
        pooled = network.tensor(f"pooled_{stride}", (1, cells, cells, 3))
        settings = dict.fromkeys(("filterWidth", "filterHeight", "strideW", "strideH"), stride)
        network.operator("AVERAGE_POOL_2D", [pixels], pooled, "Pool2DOptions", **settings)
        for kernel, bias in parts.values():
            name, channels = next(names), len(kernel)
            weight = network.tensor(f"{name}_kernel", (channels, 1, 1, 3), kernel / 255)
            shift = network.tensor(f"{name}_bias", (channels,), np.full(channels, bias))
            result = network.tensor(name, (1, cells, cells, channels))
            network.operator("CONV_2D", [pooled, weight, shift], result, "Conv2DOptions", strideW=1, strideH=1)
            network.graph.outputs.append(result)
    path.write_bytes(append_metadata(network.to_bytes(), metadata))
    return path


@pytest.fixture
def tiny_tflite(tmp_path: Path, tiny_metadata: ModelMetadata) -> Path:
    return write_tiny_tflite(tmp_path / "tiny.tflite", tiny_metadata)


def test_outputs_are_the_logits_worked_by_hand(tiny_tflite, tiny_metadata, red_cell):
    backend = open_backend(tiny_tflite, threads=1)
    assert backend.metadata == tiny_metadata
    levels = backend.run(np.stack([np.zeros_like(red_cell), red_cell]))
    shapes = [[part.shape for part in level] for level in levels]
    assert shapes == [[(2, 12, n, n), (2, 3, n, n), (2, 6, n, n)] for n in (8, 4, 2)]
    assert levels[0].objectness[0, 0, 3, 2] == pytest.approx(-10, abs=1e-4)
    assert levels[0].objectness[1, 0, 3, 2] == pytest.approx(10, abs=1e-4)
    assert levels[1].objectness[1, 0, 1, 1] == pytest.approx(20 / 4 - 10, abs=1e-4)
    np.testing.assert_allclose(levels[0].classes[1, :2, 3, 2], [20, -20], atol=1e-4)


def test_two_runs_share_the_threads_and_each_has_an_interpreter(tiny_tflite, red_cell):
    backend = open_backend(tiny_tflite, threads=2, streams=2)
    with ThreadPoolExecutor(2) as pool:
        pictures = [np.roll(red_cell, 8 * n, axis=1)[None] for n in range(6)]
        for n, levels in enumerate(pool.map(backend.run, pictures)):
            assert levels[0].objectness[0, 0, 3].argmax() == 2 + n
    assert backend._idle.qsize() == 2


def test_load_finds_the_red_cell_as_onnx_runtime_does(tiny_tflite, tiny_model, red_cell):
    ours, theirs = (load(model, threads=1).predict(red_cell) for model in (tiny_tflite, tiny_model))
    assert list(ours.class_ids) == list(theirs.class_ids) == [0]
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)


def test_metadata_with_another_number_of_classes_is_refused(tiny_metadata, tmp_path):
    changed = dataclasses.replace(tiny_metadata, class_names=("red", "blue", "green"))
    with pytest.raises(ModelFileError, match=r"'classes_p3' has the shape \[1, 8, 8, 6\].* ask for 9 channels"):
        open_backend(write_tiny_tflite(tmp_path / "changed.tflite", changed))


def test_a_sealed_file_that_is_no_network_is_refused(tiny_metadata, tmp_path):
    path = tmp_path / "words.tflite"
    path.write_bytes(append_metadata(b"These are words and no network." * 9, tiny_metadata))
    with pytest.raises(ModelFileError, match=r"words\.tflite: LiteRT cannot read this file as a model"):
        open_backend(path)
