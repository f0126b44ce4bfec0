"""These run where the converter to TFLite is installed: ``make test`` has an environment for that."""

import dataclasses
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from pocketdet.core.decode import decode_picture, sigmoid
from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.tflite_archive import without_metadata
from pocketdet.errors import ExportError, ImageError, ModelFileError, SettingsError
from pocketdet.export import Calibration, ExportReport, export, tflite_file
from pocketdet.export.conversion import Conversion
from pocketdet.loading import load
from pocketdet.models.checkpoint import TorchBackend, load_detector, save_detector
from pocketdet.models.detector import Detector
from pocketdet.runtime.backends import open_backend, output_names

interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
pytest.importorskip("litert_torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # the converter's libraries warn of each other
ROOT = Path(__file__).parents[2]
METADATA = ModelMetadata("mobilenet_v3_small", 0.35, 0.25, "symmetric", ("cat", "dog", "emu"), (64, 96))


def random_pictures(folder: Path, number: int) -> Path:
    folder.mkdir()
    for index in range(number):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 12, 3), np.uint8)
        Image.fromarray(pixels).resize((96, 64)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, build_seasoned: Callable[[ModelMetadata], Detector]) -> Path:
    """A detector with random weights and batch norms that have seen some pictures."""
    folder = tmp_path_factory.mktemp("tflite")
    detector = build_seasoned(METADATA)
    save_detector(folder / "small.safetensors", detector, METADATA)
    return folder / "small.safetensors"


@pytest.fixture(scope="module", autouse=True)
def _one_conversion() -> Iterator[None]:
    """The converter is slow for any network; all tests have the same one in float, and the same one for int8."""
    convert = tflite_file._convert
    converted: dict[tuple[type[nn.Module], str], bytes] = {}

    def convert_once(network: nn.Module, conversion: Conversion) -> bytes:
        key = type(network), conversion.metadata.backbone
        if key not in converted:
            converted[key] = convert(network, conversion)
        return converted[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite_file, "_convert", convert_once)
        yield


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> ExportReport:
    return export(checkpoint, format="tflite")


@pytest.fixture(scope="module")
def quantised(checkpoint: Path) -> tuple[ExportReport, list[str]]:
    said: list[str] = []
    report = export(
        checkpoint,
        checkpoint.with_name("int8.tflite"),
        format="tflite",
        precision="int8",
        calibration=Calibration(random_pictures(checkpoint.with_name("pictures"), 12)),
        tell=said.append,
    )
    return report, said


def test_the_file_computes_the_checkpoints_logits(exported: ExportReport, checkpoint: Path):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    expected = TorchBackend(*load_detector(checkpoint)).run(images)
    for ours, theirs in zip(open_backend(exported.path, threads=1).run(images), expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=1e-3)
    assert exported.gate.max_box_difference_px < 0.01


def test_plain_litert_reads_names_labels_and_bytes(exported: ExportReport):
    """What a person does who has no pocketdet on the device: docs/export.md."""
    interpreter = interpreter_module.Interpreter(model_path=str(exported.path), num_threads=1)
    interpreter.allocate_tensors()
    [images] = interpreter.get_input_details()
    assert (images["name"], images["dtype"], images["shape"].tolist()) == ("images", np.uint8, [1, 64, 96, 3])
    assert images["quantization"] == (1.0, 0)
    assert [output["name"] for output in interpreter.get_output_details()] == output_names(3)
    assert [output["shape"].tolist() for output in interpreter.get_output_details()[:3]] == [
        [1, 8, 12, 12],
        [1, 8, 12, 3],
        [1, 8, 12, 9],
    ]
    with zipfile.ZipFile(exported.path) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode().split() == ["cat", "dog", "emu"]


def test_the_example_of_the_documents_finds_what_pocketdet_finds(exported: ExportReport, checkpoint: Path):
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tflite.md").read_text(encoding="utf-8"), re.DOTALL)
    picture = random_pictures(checkpoint.with_name("one"), 1) / "0.png"
    run = subprocess.run(
        [sys.executable, "-c", example, str(exported.path), str(picture)], capture_output=True, text=True, check=True
    )
    name, score, *box = run.stdout.replace("[", "").replace("]", "").replace(",", "").split()
    levels = open_backend(exported.path).run(np.asarray(Image.open(picture))[None])
    large = [level._replace(objectness=np.full_like(level.objectness, -50)) for level in levels[:2]]
    best = decode_picture([*large, levels[2]], 0, METADATA, 0, 1)
    assert (name, float(score)) == (METADATA.class_names[best.class_ids[0]], pytest.approx(best.scores[0], abs=0.006))
    np.testing.assert_allclose([float(value) for value in box], best.boxes[0], atol=0.51)


def test_int8_stays_near_and_tells_what_computes_in_float(quantised: tuple[ExportReport, list[str]], checkpoint: Path):
    report, said = quantised
    assert any("squeeze-and-excitations and h-swish compute in float" in line for line in said)
    assert any(re.match(r"int8: error \d\.\d+, all else in integers", line) for line in said)
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(checkpoint.with_name("pictures").iterdir())])
    truth, ours = TorchBackend(*load_detector(checkpoint)).run(images), open_backend(report.path, 1).run(images)
    for a, b in zip(truth, ours, strict=True):
        assert 0 < np.abs(sigmoid(a.objectness) - sigmoid(b.objectness)).max() < 0.05


def test_int8_pads_as_tensorflow_does(tmp_path: Path, build_seasoned: Callable[[ModelMetadata], Detector]):
    """With padding "same" the first convolution reads the pixels themselves, not what a padding made of them."""
    metadata = dataclasses.replace(METADATA, backbone="mobilenet_v1", width=0.25, padding="same")
    save_detector(tmp_path / "v1.safetensors", build_seasoned(metadata), metadata)
    calibration = Calibration(random_pictures(tmp_path / "pictures", 12))
    report = export(tmp_path / "v1.safetensors", format="tflite", precision="int8", calibration=calibration)
    images = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "pictures").iterdir())])
    truth = TorchBackend(*load_detector(tmp_path / "v1.safetensors")).run(images)
    for a, b in zip(truth, open_backend(report.path, 1).run(images), strict=True):
        assert 0 < np.abs(sigmoid(a.objectness) - sigmoid(b.objectness)).max() < 0.05


def test_int8_computes_with_integers_and_is_smaller(quantised: tuple[ExportReport, list[str]], exported: ExportReport):
    report, _ = quantised
    interpreter = interpreter_module.Interpreter(model_path=str(report.path), num_threads=1)
    interpreter.allocate_tensors()
    kinds = [detail["dtype"] for detail in interpreter.get_tensor_details()]
    assert kinds.count(np.int8) > 100
    assert {output["dtype"] for output in interpreter.get_output_details()} == {np.float32}
    assert report.num_bytes < 0.5 * exported.num_bytes


def test_constants_lie_where_the_schema_wants_them_and_zeros_are_stored_once(quantised: tuple[ExportReport, list[str]]):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(without_metadata(quantised[0].path.read_bytes()), 0)
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    places = [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers if buffer.DataLength()]
    assert len(places) > 100
    assert {place % 16 for place in places} == {0}
    graph = model.Subgraphs(0)
    scales = [graph.Tensors(index).Quantization() for index in range(graph.TensorsLength())]
    channelwise = [scale for scale in scales if scale is not None and scale.ZeroPointLength() > 1]
    zeros = [scale._tab.Vector(scale._tab.Offset(10)) for scale in channelwise]
    assert len(zeros) > 100
    assert len(set(zeros)) < 30  # one a number of channels


def test_half_stores_16_bits_a_weight_and_stays_near(exported: ExportReport, checkpoint: Path):
    half = export(checkpoint, checkpoint.with_name("half.tflite"), format="tflite", precision="half")
    assert half.num_bytes < 0.65 * exported.num_bytes  # a third of a network as small as this is its graph
    assert 0 < half.gate.max_score_difference < 0.01


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: c[:-1], lambda c: c[:5000] + b"x" + c[5001:]])
def test_a_cut_or_changed_file_is_refused(exported: ExportReport, tmp_path: Path, damage: Callable[[bytes], bytes]):
    path = tmp_path / "bad.tflite"
    path.write_bytes(damage(exported.path.read_bytes()))
    with pytest.raises(ModelFileError, match=r"bad\.tflite: the file was (cut|changed)"):
        load(path)


def test_pixels_of_another_size_are_refused(exported: ExportReport):
    with pytest.raises(ModelFileError, match=r"cannot be run on \(1, 32, 64, 3\) pixels"):
        open_backend(exported.path).run(np.zeros((1, 32, 64, 3), np.uint8))


def test_bad_calibration_pictures_are_named_and_nothing_is_left(checkpoint: Path, tmp_path: Path):
    target = tmp_path / "out.tflite"
    with pytest.raises(SettingsError, match="int8 needs some hundred pictures"):
        export(checkpoint, target, format="tflite", precision="int8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="has no pictures"):
        export(checkpoint, target, format="tflite", precision="int8", calibration=Calibration(tmp_path / "empty"))
    broken = random_pictures(tmp_path / "broken", 2) / "1.png"
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(ImageError, match=r"1\.png"):
        export(checkpoint, target, format="tflite", precision="int8", calibration=Calibration(broken.parent))
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot be written"):
        export(checkpoint, tmp_path / "file" / "out.tflite", format="tflite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "empty", "file"]
