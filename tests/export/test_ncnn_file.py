import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketdet import load
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ExportError, ModelFileError, SettingsError
from pocketdet.export import ExportReport, export
from pocketdet.export.bytes_to_logits import BytesToLogits, PlanesToLogits
from pocketdet.export.convert import BUNDLED_PICTURES
from pocketdet.models.checkpoint import TorchBackend, load_detector, save_detector
from pocketdet.models.detector import Detector
from pocketdet.runtime.backends import open_backend

pnnx = pytest.importorskip("pnnx")
pytest.importorskip("ncnn")

METADATA = ModelMetadata("mobilenet_v3_small", 0.35, 0.25, "same", ("cat", "dog", "emu"), (96, 128))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, build_seasoned: Callable[[ModelMetadata], Detector]) -> Path:
    detector = build_seasoned(METADATA)
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_detector(path, detector, METADATA)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export(checkpoint, tmp_path_factory.mktemp("ncnn") / "small.ncnn.param", format="ncnn")


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 2)])
def test_the_files_compute_the_checkpoints_logits(checkpoint: Path, exported: ExportReport, threads: int, streams: int):
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 128, 3), np.uint8)
    expected = TorchBackend(*load_detector(checkpoint)).run(images)
    file = open_backend(exported.path, threads, streams)
    for ours, theirs in zip(file.run(images), expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=1e-3)


def test_planes_give_what_bytes_give_and_leave_the_stem_weights_that_float16_can_hold(checkpoint: Path):
    detector, _ = load_detector(checkpoint)
    planes, pixels = PlanesToLogits(detector), BytesToLogits(detector)
    images = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    for ours, theirs in zip(planes(images.permute(0, 3, 1, 2).float()), pixels(images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    stems = [next(w for n, w in network.backbone.named_parameters() if w.ndim == 4) for network in (planes, pixels)]
    torch.testing.assert_close(stems[0], 255 * stems[1])


def test_nothing_but_the_model_lies_in_the_folder(exported: ExportReport):
    names = {"small.ncnn.bin", "small.ncnn.param", "small.ncnn.param.json"}
    assert {path.name for path in exported.path.parent.iterdir()} == names
    assert {path.name for path in exported.files} == names


def test_the_blobs_have_the_names_of_the_onnx_outputs(exported: ExportReport):
    words = exported.path.read_text().split()
    assert words.count("images") == 3  # the input layer's name, what it gives, what the subtraction of the mean takes
    for name in ("boxes_p3", "objectness_p3", "classes_p3", "boxes_p5", "objectness_p5", "classes_p5"):
        assert words.count(name) == 1
    assert "out0" not in words


def test_a_bundled_detector_finds_on_ncnn_what_it_finds_on_onnx_runtime(tmp_path: Path):
    from pocketdet.loading import find_weights

    report = export(find_weights("animals-small"), tmp_path / "a.ncnn.param", format="ncnn")
    picture = BUNDLED_PICTURES / "chelsea.jpg"
    ours, theirs = (load(model).predict(picture) for model in (report.path, "animals-small"))
    assert ours.class_names == theirs.class_names
    assert len(ours.boxes) > 0
    np.testing.assert_array_equal(ours.class_ids, theirs.class_ids)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=0.01)


def test_int8_is_refused_with_the_reason(checkpoint: Path):
    with pytest.raises(SettingsError, match=r"ncnn cannot be written as int8; .*\(its packages bring no int8 tool"):
        export(checkpoint, format="ncnn", precision="int8")


@pytest.mark.parametrize("name", ["small.ncnn.bin", "small.ncnn.param"])
def test_cut_and_missing_files_are_named(exported: ExportReport, tmp_path: Path, name: str):
    for file in exported.files:
        shutil.copy(file, tmp_path)
    broken = tmp_path / name
    broken.write_bytes(broken.read_bytes()[:-7])
    with pytest.raises(ModelFileError, match=f"{name}: the file was changed"):
        open_backend(tmp_path / "small.ncnn.param")
    broken.unlink()
    with pytest.raises(ModelFileError, match=f"{name}: (missing|no such model file)"):
        open_backend(tmp_path / "small.ncnn.param")


def test_pixels_of_another_size_are_refused(exported: ExportReport):
    with pytest.raises(ModelFileError, match=r"cannot be run on \(1, 64, 64, 3\) pixels, only on \(96, 128, 3\)"):
        open_backend(exported.path).run(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_converter_that_stops_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pnnx, "EXEC_PATH", "/bin/false")
    with pytest.raises(ExportError, match="pnnx could not convert the network"):
        export(checkpoint, tmp_path / "m.ncnn.param", format="ncnn")
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_another_format_is_refused(checkpoint: Path, tmp_path: Path):
    with pytest.raises(SettingsError, match=r"m\.param: .* ncnn must end in \.ncnn\.param"):
        export(checkpoint, tmp_path / "m.param", format="ncnn")
