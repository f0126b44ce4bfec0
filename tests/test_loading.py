import hashlib
import json
import shutil

import pytest

from pocketdet import loading
from pocketdet.errors import MissingExtraError, ModelFileError


@pytest.fixture
def assets(tiny_model, tmp_path, monkeypatch):
    """A package whose bundled "animals" is the tiny network."""
    folder = tmp_path / "assets"
    shutil.copytree(loading.ASSETS, folder, ignore=shutil.ignore_patterns("*.onnx"))
    shutil.copy(tiny_model, folder / "animals.onnx")
    digest = hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    entry = {"file": "animals.onnx", "sha256": digest, "recipe": "", "AP50": 0.0, "AP": 0.0}
    (folder / "bundled.json").write_text(json.dumps({"animals": entry}))
    monkeypatch.setattr(loading, "ASSETS", folder)
    return folder


def test_a_bundled_detector_loads_by_name(assets):
    assert loading.load().class_names == ("red", "blue")
    assert loading.load("animals", threads=1).class_names == ("red", "blue")


def test_a_changed_bundled_file_is_refused(assets):
    with (assets / "animals.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelFileError, match="was changed"):
        loading.load()


def test_a_missing_bundled_file_is_named(assets):
    (assets / "animals.onnx").unlink()
    with pytest.raises(ModelFileError, match=r"animals\.onnx: the bundled model file is missing"):
        loading.load()


def test_an_unknown_name_lists_the_bundled_ones(assets):
    with pytest.raises(ModelFileError, match=r"anmals: no such file, .*\(bundled: animals\)"):
        loading.load("anmals")


@pytest.mark.parametrize("name", sorted(loading.bundled_models()))
def test_every_bundled_file_is_the_one_that_was_measured(name):
    predictor = loading.load(name)
    entry = loading.bundled_models()[name]
    assert predictor.metadata.metrics["AP50"] == pytest.approx(entry["AP50"], abs=0.01)
    assert predictor.metadata.licence == "MIT"


def test_pickled_files_are_never_opened(tmp_path):
    (tmp_path / "last.pt").touch()
    with pytest.raises(ModelFileError, match=r"can run code .* use best\.safetensors"):
        loading.load(tmp_path / "last.pt")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"has no best\.safetensors"):
        loading.load(tmp_path)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "model.caffemodel").touch()
    with pytest.raises(ModelFileError, match=r"model\.caffemodel: not a checkpoint; expected a \.safetensors file"):
        loading.load(tmp_path / "model.caffemodel")


def test_a_checkpoint_without_torch_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(MissingExtraError, match=r'pip install "pocketdet\[train\]"'):
        loading.load(tmp_path)


def test_only_the_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None if name == "cv2" else name)
    with pytest.raises(MissingExtraError, match="training needs cv2, not installed here"):
        loading.require_packages("training", loading.TRAINING_PACKAGES)
