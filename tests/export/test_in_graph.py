import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from pocketdet import load
from pocketdet.cli import main
from pocketdet.core.decode import decode_picture
from pocketdet.core.images import read_image
from pocketdet.core.letterbox import Letterbox
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ExportError, SettingsError
from pocketdet.export import export, onnx_file
from pocketdet.export.conversion import Conversion
from pocketdet.export.in_graph import append_boxes
from pocketdet.loading import ASSETS
from pocketdet.models.checkpoint import TorchBackend, load_detector
from pocketdet.runtime.backends import OnnxBackend, open_backend
from pocketdet.runtime.boxes import find_boxes

MODEL = ASSETS / "animals-small.onnx"  # a float graph, and a checkpoint of itself
METADATA = OnnxBackend(MODEL).metadata
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


def read_pictures() -> np.ndarray:
    """The cat, upside down, and beside itself."""
    picture = read_image(ASSETS / "chelsea.jpg").pixels
    pictures = [picture, picture[::-1], np.concatenate((picture, picture[:, ::-1]), axis=1)]
    return np.stack([Letterbox(p.shape[:2], METADATA.input_size).apply(p, METADATA.padding_colour) for p in pictures])


PICTURES = read_pictures()


@pytest.fixture
def convert_once(monkeypatch: pytest.MonkeyPatch):
    """Torch's exporter, which takes its time, has run before."""
    monkeypatch.setattr(onnx_file, "float_graph", lambda conversion: onnx.load(MODEL))


def with_boxes(source: Path, path: Path, outputs: str) -> Path:
    metadata = dataclasses.replace(OnnxBackend(source).metadata, outputs=outputs)
    model = onnx.load(source)
    model.opset_import[0].version = 18
    append_boxes(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    onnx_file.update_metadata(path, metadata)
    return path


@pytest.mark.parametrize("outputs", ["decoded", "suppressed"])
@pytest.mark.parametrize("thresholds", [(0.3, 0.5), (0.02, 0.3), (0.02, 0.9), (0.2, 1.0)])
def test_the_graph_finds_what_the_decoder_finds(tmp_path: Path, outputs: str, thresholds: tuple[float, float]):
    backend = OnnxBackend(MODEL)
    levels = backend.run(PICTURES)
    file = OnnxBackend(with_boxes(MODEL, tmp_path / "m.onnx", outputs))
    found = find_boxes(file, PICTURES, [thresholds] * 3)
    for index, theirs in enumerate(found):
        ours = decode_picture(levels, index, backend.metadata, *thresholds)
        assert len(ours.boxes) > 0
        np.testing.assert_array_equal(theirs.class_ids, ours.class_ids)
        np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=1e-3)
        np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-5)


@pytest.mark.parametrize("outputs", ["decoded", "suppressed"])
def test_a_graph_finds_nothing_where_there_is_nothing(tmp_path: Path, outputs: str):
    file = OnnxBackend(with_boxes(MODEL, tmp_path / "m.onnx", outputs))
    pictures = np.stack((PICTURES[0], np.full_like(PICTURES[0], 114)))
    assert [len(found.scores) > 0 for found in find_boxes(file, pictures, [(0.3, 0.5)] * 2)] == [True, False]
    if outputs == "suppressed":  # in one batch, too, a row without objects is in nobody's way
        boxes, _, _, count = file.fetch(pictures, {})
        assert count[1] == 0
        assert np.isfinite(boxes).all()
    assert not find_boxes(file, pictures[1:], [(0.3, 0.5)])[0].boxes.any()


@pytest.mark.parametrize("outputs", ["decoded", "suppressed"])
def test_a_graph_of_any_size_places_its_cells(tiny_model: Path, tmp_path: Path, red_cell, outputs: str):
    file = OnnxBackend(with_boxes(tiny_model, tmp_path / "m.onnx", outputs))  # outputs without fixed height and width
    [found] = find_boxes(file, red_cell[None], [(0.3, 0.5)])
    np.testing.assert_allclose(found.boxes, [[16, 24, 24, 32]], atol=1e-4)
    assert found.class_ids.tolist() == [0]


def test_the_thresholds_of_a_file_with_nms_are_inputs_with_a_default(tmp_path: Path):
    session = onnxruntime.InferenceSession(with_boxes(MODEL, tmp_path / "m.onnx", "suppressed"))
    boxes, scores, labels, count = session.run(None, {"images": PICTURES[:2]})
    assert boxes.shape == (2, 300, 4)
    assert scores.shape == labels.shape == (2, 300)
    backend = OnnxBackend(MODEL)
    levels = backend.run(PICTURES[:2])
    for index in range(2):
        ours = decode_picture(levels, index, backend.metadata, 0.3, 0.5)
        assert count[index] == len(ours.scores) > 0
        np.testing.assert_allclose(scores[index, : count[index]], ours.scores, atol=1e-5)
        assert not scores[index, count[index] :].any()


@pytest.mark.parametrize(("format", "outputs"), [("onnx", "decoded"), ("onnx", "suppressed"), ("openvino", "decoded")])
def test_an_exported_file_that_decodes_gives_the_checkpoints_detections(
    convert_once, tmp_path: Path, format: str, outputs: str
):
    pytest.importorskip(format)
    path = tmp_path / f"boxes{SUFFIXES[format]}"
    report = export(MODEL, path, format=format, outputs=outputs)
    assert 0 < report.gate.max_box_difference_px < 0.01
    assert report.gate.num_objects > 0
    detector = load(path)
    assert detector.metadata.outputs == outputs
    ours, theirs = (model.predict(PICTURES[0], 0.01) for model in (load(MODEL), detector))
    assert len(ours.boxes) > 1
    np.testing.assert_array_equal(theirs.class_ids, ours.class_ids)
    np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=0.5)
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=0.01)
    batches = detector.predict(list(PICTURES), 0.01)
    np.testing.assert_array_equal(batches[0].boxes, theirs.boxes)


def test_what_decodes_stands_behind_the_network_which_may_compute_in_bytes(tmp_path: Path):
    network, changed = (onnx.load(path).graph for path in (MODEL, with_boxes(MODEL, tmp_path / "m.onnx", "decoded")))
    assert list(changed.node[: len(network.node)]) == list(network.node)
    assert [output.name for output in changed.output] == ["detections"]
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in changed.node[len(network.node) :]}


@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("outputs", ["logits", "decoded"])
def test_a_dynamic_file_computes_the_checkpoints_boxes_at_other_sizes_and_batches(
    convert_once, tmp_path: Path, format: str, outputs: str
):
    pytest.importorskip(format)
    path = tmp_path / f"any{SUFFIXES[format]}"
    export(MODEL, path, format=format, outputs=outputs, is_dynamic=True)
    backend = open_backend(path)
    assert backend.metadata.input_size == METADATA.input_size
    for shape in [(1, 320, 320), (2, 96, 160), (1, 256, 64)]:
        images = np.stack([np.asarray(Image.fromarray(p).resize(shape[:0:-1])) for p in PICTURES[: shape[0]]])
        thresholds = [(0.01, 0.5)] * len(images)
        expected = find_boxes(TorchBackend(*load_detector(MODEL)), images, thresholds)
        for ours, theirs in zip(expected, find_boxes(backend, images, thresholds), strict=True):
            assert len(ours.boxes) > 0
            np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=0.01)
            np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-3)


def test_a_graph_with_a_size_in_it_is_no_file_for_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def convert(conversion: Conversion) -> onnx.ModelProto:
        model = onnx.load(MODEL)
        first = next(node for node in model.graph.node if "images" in node.input)
        first.input[0] = "fixed"
        sides = onnx.numpy_helper.from_array(np.array([0, 320, 320, 3]), "sides")
        model.graph.initializer.append(sides)
        model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["images", "sides"], ["fixed"]))
        return model

    monkeypatch.setattr(onnx_file, "float_graph", convert)
    with pytest.raises(ExportError, match="any size"):
        export(MODEL, tmp_path / "any.onnx", is_dynamic=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_decodes_with_other_anchors_is_refused(
    convert_once, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def wrongly(model: onnx.ModelProto, metadata: ModelMetadata) -> None:
        anchors = tuple(tuple((1.1 * w, h) for w, h in level) for level in metadata.anchors)
        append_boxes(model, dataclasses.replace(metadata, anchors=anchors))

    monkeypatch.setattr(onnx_file, "append_boxes", wrongly)
    with pytest.raises(ExportError, match="a box is off by"):
        export(MODEL, tmp_path / "m.onnx", outputs="decoded")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_decodes_is_a_checkpoint_that_gives_logits(tmp_path: Path):
    detector, metadata = load_detector(with_boxes(MODEL, tmp_path / "m.onnx", "suppressed"))
    assert metadata == METADATA
    levels = TorchBackend(detector, metadata).run(PICTURES)
    np.testing.assert_allclose(levels[0].boxes, OnnxBackend(MODEL).run(PICTURES)[0].boxes, atol=1e-3)


@pytest.mark.parametrize(
    ("format", "wish", "message"),
    [
        (
            "darknet",
            {"outputs": "decoded"},
            "format darknet has no decoding within its files; these have: onnx, openvino",
        ),
        ("openvino", {"outputs": "suppressed"}, "format openvino has no NMS within its files; these have: onnx"),
        ("darknet", {"is_dynamic": True}, "format darknet take one size of pictures; any size: onnx, openvino"),
    ],
)
def test_wishes_that_a_format_cannot_fulfil_are_refused_with_those_that_can(format: str, wish: dict, message: str):
    with pytest.raises(SettingsError, match=message):
        export(MODEL, format=format, **wish)


def test_a_file_with_its_own_nms_knows_iou_alone(tmp_path: Path):
    path = with_boxes(MODEL, tmp_path / "m.onnx", "suppressed")
    with pytest.raises(SettingsError, match="exported with its own NMS"):
        load(path, nms="diou")


def test_the_command_line_writes_such_files(convert_once, tmp_path: Path, capsys):
    arguments = ["--nms-in-graph", "--dynamic", "--output", str(tmp_path / "m.onnx")]
    assert main(["export", str(MODEL), *arguments]) == 0
    assert "objects with a score above 0.3 that both find" in capsys.readouterr().out
    assert main(["predict", str(ASSETS / "chelsea.jpg"), "--model", str(tmp_path / "m.onnx"), "--json"]) == 0
    assert '"class": "cat"' in capsys.readouterr().out
