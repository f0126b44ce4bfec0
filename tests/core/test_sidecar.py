import json

import pytest

from pocketdet.core.sidecar import read_sidecar, sidecar_path, write_sidecar
from pocketdet.errors import ModelFileError


@pytest.fixture
def model(tmp_path, tiny_metadata):
    (tmp_path / "model.xml").write_text("graph")
    (tmp_path / "model.bin").write_bytes(b"weights")
    write_sidecar(tmp_path / "model.xml", tiny_metadata, [tmp_path / "model.xml", tmp_path / "model.bin"])
    return tmp_path / "model.xml"


def test_metadata_come_back(model, tiny_metadata):
    assert read_sidecar(model) == tiny_metadata


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_a_changed_file_is_named(model, name):
    model.with_name(name).write_bytes(b"other")
    with pytest.raises(ModelFileError, match=rf"{name}: the file was changed"):
        read_sidecar(model)


def test_a_missing_part_is_named(model):
    model.with_name("model.bin").unlink()
    with pytest.raises(ModelFileError, match=r"model\.bin: missing; model\.xml is of no use without it"):
        read_sidecar(model)


def test_a_missing_model_or_sidecar_is_named(model):
    with pytest.raises(ModelFileError, match=r"absent\.xml: no such model file"):
        read_sidecar(model.with_name("absent.xml"))
    sidecar_path(model).unlink()
    with pytest.raises(ModelFileError, match=r"model\.xml\.json, which .* is missing"):
        read_sidecar(model)


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"metadata": {}}), json.dumps({"metadata": {}, "sha256": 3})])
def test_a_foreign_sidecar_is_refused(model, text):
    sidecar_path(model).write_text(text)
    with pytest.raises(ModelFileError, match=r"model\.xml\.json: not what"):
        read_sidecar(model)
