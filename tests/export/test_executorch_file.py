import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from pocketdet import load
from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.sidecar import write_sidecar
from pocketdet.errors import ModelFileError, SettingsError
from pocketdet.export import ExportReport, export
from pocketdet.models.checkpoint import TorchBackend, load_detector
from pocketdet.runtime.backends import open_backend
from pocketdet.runtime.backends.executorch_runtime import ExecuTorchBackend

pytest.importorskip("executorch")
pytestmark = pytest.mark.filterwarnings("ignore")  # its libraries warn of each other


@pytest.fixture(scope="module")
def exported(smallest_checkpoint: Path) -> ExportReport:
    return export(smallest_checkpoint, format="executorch")


def copy(exported: ExportReport, folder: Path) -> Path:
    for file in exported.files:
        shutil.copy(file, folder)
    return folder / exported.path.name


def test_the_program_computes_the_checkpoints_logits(exported: ExportReport, smallest_checkpoint: Path):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    images.flags.writeable = False  # as pictures from elsewhere may be
    expected = TorchBackend(*load_detector(smallest_checkpoint)).run(images)
    ours = open_backend(exported.path).run(images)
    assert len(ours) == 2
    for level, truth in zip(ours, expected, strict=True):
        for a, b in zip(level, truth, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_gate_has_run_the_file_and_its_figures_travel_with_it(exported: ExportReport):
    assert {file.name for file in exported.files} == {"tiny.pte", "tiny.pte.json"}
    assert exported.gate is not None
    assert exported.gate.max_box_difference_px < 0.01
    metadata = load(exported.path).metadata
    assert (metadata.precision, metadata.gate) == ("float32", "")
    assert metadata.metrics["gate_pictures"] == exported.gate.num_pictures


def test_two_runs_do_not_share_their_results(exported: ExportReport):
    backend = open_backend(exported.path)
    dark, light = (backend.run(np.full((1, 64, 96, 3), value, np.uint8))[0].objectness for value in (0, 255))
    assert np.abs(dark - light).max() > 0.01


def test_another_number_of_threads_in_one_process_is_refused(exported: ExportReport):
    open_backend(exported.path)
    number = ExecuTorchBackend._pool
    open_backend(exported.path, threads=number)
    with pytest.raises(SettingsError, match=rf"tiny\.pte: {number + 1} threads are asked for, .* pool has {number} in"):
        open_backend(exported.path, threads=number + 1)


def test_a_changed_program_and_one_without_its_sidecar_are_named(exported: ExportReport, tmp_path: Path):
    path = copy(exported, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelFileError, match=r"tiny\.pte: the file was changed"):
        load(path)
    path.with_name("tiny.pte.json").unlink()
    with pytest.raises(ModelFileError, match=r"tiny\.pte\.json, which .* is missing"):
        load(path)


@pytest.mark.parametrize("length", [0, 10, 20_000])
def test_what_is_no_program_is_refused(exported: ExportReport, smallest: ModelMetadata, tmp_path: Path, length: int):
    path = tmp_path / "cut.pte"
    path.write_bytes(exported.path.read_bytes()[:length])
    write_sidecar(path, smallest, [path])
    with pytest.raises(ModelFileError, match=r"cut\.pte: ExecuTorch cannot read this file as a program"):
        load(path)


def test_metadata_with_another_number_of_classes_are_refused(
    exported: ExportReport, smallest: ModelMetadata, tmp_path: Path
):
    path = copy(exported, tmp_path)
    write_sidecar(path, dataclasses.replace(smallest, class_names=("cat",)), [path])
    with pytest.raises(ModelFileError, match=r"\(1, 9, 4, 6\).* ask for .*\(1, 3, 4, 6\)"):
        load(path)


def test_pixels_of_another_size_are_refused(exported: ExportReport):
    with pytest.raises(ModelFileError, match=r"cannot be run on \(1, 32, 64, 3\) pixels"):
        open_backend(exported.path).run(np.zeros((1, 32, 64, 3), np.uint8))
