import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ExportError, ModelFileError, SettingsError
from pocketdet.export import ExportReport, export, onnx_file
from pocketdet.export.conversion import Conversion
from pocketdet.models.checkpoint import TorchBackend, load_detector, save_detector
from pocketdet.models.detector import Detector, build_from_metadata
from pocketdet.runtime.backends import OnnxBackend
from pocketdet.runtime.predictor import Predictor

METADATA = ModelMetadata(
    "mobilenet_v3_small",
    0.35,
    0.25,
    "same",
    ("cat", "dog", "emu"),
    (96, 128),
    training_data="none",
    metrics={"AP": 0.25},
)


@dataclasses.dataclass(frozen=True)
class Exported:
    checkpoint: Path
    report: ExportReport


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, build_seasoned: Callable[[ModelMetadata], Detector]) -> Exported:
    """A detector with random weights and batch norms that have seen some pictures, and its file."""
    folder = tmp_path_factory.mktemp("exported")
    detector = build_seasoned(METADATA)
    with torch.no_grad():
        for level in detector.head.levels:
            for layer in (level.boxes, level.objectness, level.classes):
                layer.weight.normal_(0, 0.2)
            level.objectness.bias.zero_()
    save_detector(folder / "small.safetensors", detector, METADATA)
    return Exported(folder / "small.safetensors", export(folder / "small.safetensors"))


def use_exporter(monkeypatch: pytest.MonkeyPatch, exported: Exported, change: Callable[[onnx.ModelProto], None]):
    """Instead of converting, take the good file and do something to it."""

    def write(conversion: Conversion, path: Path) -> None:
        model = onnx.load(exported.report.path)
        change(model)
        onnx.save(model, path)
        onnx_file.update_metadata(path, conversion.metadata)

    monkeypatch.setattr(onnx_file, "write", write)


def scale_weights_of(output: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if output in node.output)
        for tensor in model.graph.initializer:
            if tensor.name == node.input[1]:
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * factor, tensor.name))

    return change


@pytest.mark.parametrize("batch", [1, 3])
def test_the_file_computes_the_checkpoints_logits_for_any_batch(exported: Exported, batch: int):
    images = np.random.default_rng(0).integers(0, 256, (batch, 96, 128, 3), np.uint8)
    expected = TorchBackend(*load_detector(exported.checkpoint)).run(images)
    for ours, theirs in zip(OnnxBackend(exported.report.path).run(images), expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=1e-3)
    assert np.abs(expected[0].boxes).max() > 0.1


def test_metadata_travel_with_the_file_and_tell_what_the_gate_measured(exported: Exported):
    metadata = OnnxBackend(exported.report.path).metadata
    assert dataclasses.replace(metadata, metrics={}) == dataclasses.replace(METADATA, metrics={}, precision="float32")
    assert metadata.metrics["AP"] == 0.25
    assert metadata.metrics["gate_pictures"] == 2
    assert 0 < metadata.metrics["gate_max_box_difference_px"] < 0.01


def test_the_graph_is_one_file_without_batch_norms_or_traces_of_this_machine(exported: Exported):
    assert sorted(path.name for path in exported.checkpoint.parent.iterdir()) == ["small.onnx", "small.safetensors"]
    model = onnx.load(exported.report.path)
    onnx.checker.check_model(model)
    assert not {"BatchNormalization", "Div"} & {node.op_type for node in model.graph.node}
    names = [f"{part}_p{level}" for level in (3, 4, 5) for part in ("boxes", "objectness", "classes")]
    assert [output.name for output in model.graph.output] == names
    [images] = model.graph.input
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value or d.dim_param for d in images.type.tensor_type.shape.dim] == ["batch", 96, 128, 3]
    assert str(Path(__file__).parents[2]).encode() not in exported.report.path.read_bytes()


def test_the_report_is_json_and_text(exported: Exported):
    assert json.loads(json.dumps(exported.report.to_dict()))["gate"]["num_pictures"] == 2
    assert "on 2 pictures" in exported.report.to_text()


@pytest.mark.parametrize(
    ("output", "factor", "message"),
    [
        ("boxes_p4", 1.5, "a box is off by .* pixels"),
        ("classes_p3", 0.5, "a score is off"),
        ("objectness_p5", np.nan, "a score is off by nan"),
    ],
)
def test_a_file_that_computes_something_else_is_refused_and_removed(
    monkeypatch: pytest.MonkeyPatch, exported: Exported, tmp_path: Path, output: str, factor: float, message: str
):
    use_exporter(monkeypatch, exported, scale_weights_of(output, np.float32(factor)))
    with pytest.raises(ExportError, match=message):
        export(exported.checkpoint, tmp_path / "bad.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_file_leaves_an_older_good_one_alone(
    monkeypatch: pytest.MonkeyPatch, exported: Exported, tmp_path: Path
):
    (tmp_path / "model.onnx").write_bytes(b"old")
    use_exporter(monkeypatch, exported, scale_weights_of("boxes_p4", np.float32(2)))
    with pytest.raises(ExportError):
        export(exported.checkpoint, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == b"old"


@pytest.fixture
def labelled(exported: Exported, tmp_path: Path) -> Path:
    """A YOLO data set whose labels are the detector's own best boxes: its AP is not zero."""
    predictor = Predictor(OnnxBackend(exported.report.path))
    for folder in ("images/val", "labels/val"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
        path = tmp_path / "data/images/val" / f"{number}.png"
        Image.fromarray(pixels).resize((128, 96)).save(path)
        found = predictor.predict(path, score_threshold=0.0001)
        lines = []
        for class_id, (x1, y1, x2, y2) in list(zip(found.class_ids, found.boxes.tolist(), strict=True))[:4]:
            lines.append(f"{class_id} {(x1 + x2) / 256} {(y1 + y2) / 192} {(x2 - x1) / 128} {(y2 - y1) / 96}")
        (tmp_path / "data/labels/val" / f"{number}.txt").write_text("\n".join(lines) + "\n")
    names = "\n".join(f"  {n}: {name}" for n, name in enumerate(METADATA.class_names))
    (tmp_path / "data/data.yaml").write_text(f"path: .\nval: images/val\nnames:\n{names}\n")
    return tmp_path / "data"


def test_with_a_data_set_the_aps_of_file_and_checkpoint_are_compared(
    monkeypatch: pytest.MonkeyPatch, exported: Exported, labelled: Path, tmp_path: Path
):
    use_exporter(monkeypatch, exported, lambda model: None)
    report = export(exported.checkpoint, tmp_path / "again.onnx", data=labelled)
    assert report.gate.num_pictures == 3
    assert report.gate.checkpoint_ap is not None
    assert report.gate.checkpoint_ap > 0.1
    assert report.gate.ap_difference == pytest.approx(0, abs=1e-3)
    assert "checkpoint" in report.to_text().splitlines()[-1]


def test_given_pictures_are_the_ones_compared_on(monkeypatch: pytest.MonkeyPatch, exported: Exported, tmp_path: Path):
    use_exporter(monkeypatch, exported, lambda model: None)
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    assert export(exported.checkpoint, tmp_path / "m.onnx", pictures=[tmp_path / "red.png"]).gate.num_pictures == 1


def test_bad_wishes_are_refused_with_the_way_out(exported: Exported, tmp_path: Path):
    with pytest.raises(SettingsError, match='format is "onxx"; it must be one of onnx'):
        export(exported.checkpoint, format="onxx")
    with pytest.raises(SettingsError, match="multiples of 32"):
        export(exported.checkpoint, size=(100, 96))
    cut = tmp_path / "cut.safetensors"
    shutil.copy(exported.checkpoint, cut)
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match=r"cut\.safetensors"):
        export(cut)


def test_half_weights_halve_the_file_and_pass_the_same_gate(exported: Exported, tmp_path: Path):
    report = export(exported.checkpoint, tmp_path / "half.onnx", precision="half")
    assert report.num_bytes < 0.65 * exported.report.num_bytes
    assert report.gate.max_box_difference_px < 0.5
    image = np.random.default_rng(0).integers(0, 255, (1, 96, 128, 3), dtype=np.uint8)
    whole, half = (OnnxBackend(path).run(image) for path in (exported.report.path, report.path))
    assert np.abs(whole[0].boxes - half[0].boxes).max() > 0


def test_a_detector_with_mish_passes_the_gate(tmp_path: Path):
    metadata = dataclasses.replace(METADATA, neck_activation="mish")
    torch.manual_seed(0)
    detector = build_from_metadata(metadata).train()
    detector.neck.drop.probability = 0.5
    with torch.no_grad():
        for _ in range(10):
            detector(torch.rand(4, 3, 96, 128))
    save_detector(tmp_path / "mish.safetensors", detector, metadata)
    report = export(tmp_path / "mish.safetensors")
    graph = onnx.load(report.path).graph
    assert not [node for node in graph.node if node.op_type.startswith("Random")]
    assert OnnxBackend(report.path).metadata.neck_activation == "mish"


def test_an_exported_file_is_a_checkpoint_for_further_exports(exported: Exported, tmp_path: Path):
    report = export(exported.report.path, tmp_path / "again.onnx")
    images = np.random.default_rng(1).integers(0, 256, (2, 96, 128, 3), np.uint8)
    for ours, theirs in zip(
        OnnxBackend(report.path).run(images), OnnxBackend(exported.report.path).run(images), strict=True
    ):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)


def test_int8_without_pictures_says_which_are_needed(exported: Exported):
    with pytest.raises(SettingsError, match="int8 needs some hundred pictures"):
        export(exported.checkpoint, precision="int8")


def test_a_folder_that_cannot_be_written_to_is_named(exported: Exported, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot be written"):
        export(exported.checkpoint, tmp_path / "file" / "model.onnx")
