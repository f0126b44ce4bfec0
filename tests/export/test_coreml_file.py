"""Core ML's packages cannot be run here: what they say of themselves is read back by coremltools' own reader."""

import dataclasses
import json
from pathlib import Path

import pytest

from pocketdet import load
from pocketdet.core.metadata import YOLOV4_TINY_ANCHORS, ModelMetadata
from pocketdet.errors import ExportError, ModelFileError, SettingsError
from pocketdet.export import ExportReport, coreml_file, export

coremltools = pytest.importorskip("coremltools")
pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other


@pytest.fixture(scope="module")
def exported(smallest_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export(smallest_checkpoint, tmp_path_factory.mktemp("coreml") / "tiny.mlpackage", format="coreml")


def read_spec(report: ExportReport):
    return coremltools.models.MLModel(str(report.path), skip_model_load=True).get_spec()


def test_input_outputs_and_metadata_are_those_of_the_contract(exported: ExportReport):
    description = read_spec(exported).description
    [images] = description.input
    assert (images.name, images.type.imageType.height, images.type.imageType.width) == ("images", 64, 96)
    assert images.type.imageType.colorSpace == 20  # RGB
    shapes = {output.name: list(output.type.multiArrayType.shape) for output in description.output}
    assert shapes == {
        "boxes_p4": [1, 12, 4, 6],
        "objectness_p4": [1, 3, 4, 6],
        "classes_p4": [1, 9, 4, 6],
        "boxes_p5": [1, 12, 2, 3],
        "objectness_p5": [1, 3, 2, 3],
        "classes_p5": [1, 9, 2, 3],
    }
    assert json.loads(description.metadata.userDefined["classes"]) == ["cat", "dog", "emu"]
    metadata = ModelMetadata.from_json(description.metadata.userDefined["pocketdet"], "spec")
    assert (metadata.anchors, metadata.input_size) == (YOLOV4_TINY_ANCHORS, (64, 96))


def test_that_nobody_has_run_it_stands_on_the_screen_and_in_the_file(exported: ExportReport):
    assert exported.gate is None
    assert exported.to_text().endswith("Not run, only its structure was checked: Core ML runs on Apple's systems alone")
    assert exported.to_dict()["gate"] is None
    text = read_spec(exported).description.metadata.userDefined["pocketdet"]
    assert ModelMetadata.from_json(text, "spec").gate.startswith("not run, structure checked only: Core ML")


def test_weights_are_in_float32_and_all_of_the_package_is_counted(exported: ExportReport):
    sizes = [file.stat().st_size for file in exported.path.rglob("*") if file.is_file()]
    assert exported.num_bytes == sum(sizes)
    assert max(sizes) > 4 * 100_000  # parameters
    assert [file.name for file in exported.path.parent.iterdir()] == ["tiny.mlpackage"]


def test_half_replaces_the_package_that_was_there_by_one_of_half_its_size(
    exported: ExportReport, smallest_checkpoint: Path
):
    path = smallest_checkpoint.with_name("again.mlpackage")
    path.mkdir()
    (path / "old").touch()
    report = export(smallest_checkpoint, path, format="coreml", precision="half")
    assert report.num_bytes < 0.6 * exported.num_bytes
    assert not (path / "old").exists()
    assert [file.name for file in path.parent.glob("*again*")] == ["again.mlpackage"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"input_size": (96, 64)}, "input of the package"),
        ({"class_names": ("cat",)}, "outputs of the package"),
        ({"licence": "none"}, "metadata of the package"),
    ],
)
def test_a_package_that_says_something_else_is_refused(exported: ExportReport, change: dict[str, object], what: str):
    text = read_spec(exported).description.metadata.userDefined["pocketdet"]
    metadata = ModelMetadata.from_json(text, "spec")
    coreml_file.check_structure(exported.path, metadata)
    with pytest.raises(ExportError, match=rf"tiny\.mlpackage: the {what} are"):
        coreml_file.check_structure(exported.path, dataclasses.replace(metadata, **change))


def test_to_load_a_package_and_to_write_int8_are_refused_with_the_reason(
    exported: ExportReport, smallest_checkpoint: Path
):
    with pytest.raises(ModelFileError, match=r"tiny\.mlpackage: a Core ML package is for apps on Apple's systems"):
        load(exported.path)
    with pytest.raises(SettingsError, match=r"coreml cannot be written as int8; it can as float32, half"):
        export(smallest_checkpoint, format="coreml", precision="int8")
