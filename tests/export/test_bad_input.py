"""What goes wrong around an export, for every format alike: one message that tells the way out, and nothing left."""

import errno
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from pocketdet.cli import main
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ExportError, ImageError, MissingExtraError, ModelFileError
from pocketdet.export import Calibration, export, onnx_file
from pocketdet.export.calibration import read_calibration
from pocketdet.export.table import EXPORTERS
from pocketdet.loading import ASSETS
from pocketdet.models.checkpoint import save_detector
from pocketdet.models.detector import build_from_metadata

METADATA = ModelMetadata("mobilenet_v2", 0.1, 0.1, "same", ("cat",), (32, 32), pocketdet_version="0.1.0")
FORMATS = list(EXPORTERS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad_input") / "small.safetensors"
    save_detector(path, build_from_metadata(METADATA).eval(), METADATA)
    return path


@pytest.fixture
def output(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Named as the format wants it, in a folder of its own."""
    folder = tmp_path / "files"
    folder.mkdir()
    return folder / f"m{EXPORTERS[request.getfixturevalue('format')].suffix}"


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch):
    """As if every converter were here, so that what comes before it can be tested."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: object())


def fail_by(monkeypatch: pytest.MonkeyPatch, format: str, error: Exception):
    """The converter writes a part of its file and stops."""

    def write(exporter: object, conversion: object, path: Path) -> None:
        path.write_bytes(b"half a file")
        raise error

    monkeypatch.setattr(type(EXPORTERS[format]), "write", write)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"cannot be written \(No space left on device\).*Make room"),
        (RuntimeError("iostream error\nat frame 0"), r"stopped \(RuntimeError: iostream error\).* MB free in .*files"),
        (ExportError("the converter says no"), "^the converter says no$"),
    ],
)
def test_a_converter_that_stops_leaves_nothing_but_its_reason(
    checkpoint: Path, output: Path, all_installed, monkeypatch, format: str, error: Exception, message: str
):
    output.write_bytes(b"an older file")
    fail_by(monkeypatch, format, error)
    with pytest.raises(ExportError, match=message):
        export(checkpoint, output, format=format)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    assert output.read_bytes() == b"an older file"


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_that_may_not_be_written_to_is_named(
    checkpoint: Path, output: Path, all_installed, monkeypatch, format: str
):
    def refuse(path: Path, *arguments: object, **named: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ExportError, match=rf"{re.escape(str(output))}: cannot be written \(Permission denied\)"):
        export(checkpoint, output, format=format)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_converter_is_named_with_the_extra_that_installs_it(
    checkpoint: Path, output: Path, monkeypatch, format: str
):
    exporter = EXPORTERS[format]
    if not exporter.packages:
        pytest.skip("needs none")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(
        MissingExtraError, match=rf'{exporter.packages[0]}.*pip install "pocketdet\[{exporter.extra}\]"'
    ):
        export(checkpoint, output, format=format)


@pytest.mark.parametrize("format", FORMATS)
def test_no_calibration_pictures_or_no_int8_at_all_is_said_before_anything_is_written(
    checkpoint: Path, output: Path, all_installed, capsys, format: str
):
    assert main(["export", str(checkpoint), "--format", format, "--int8", "--output", str(output)]) == 2
    has_int8 = "int8" in EXPORTERS[format].precisions
    expected = "int8 needs some hundred pictures" if has_int8 else f"format {format} cannot be written as int8"
    assert capsys.readouterr().err.startswith(f"error: {expected}")
    assert list(output.parent.iterdir()) == []


def test_an_unknown_format_is_answered_with_those_that_there_are(checkpoint: Path, capsys):
    assert main(["export", str(checkpoint), "--format", "onxx"]) == 2
    assert capsys.readouterr().err == f'error: format is "onxx"; it must be one of {", ".join(FORMATS)}\n'


@pytest.mark.parametrize("format", FORMATS)
def test_a_checkpoint_of_another_version_is_named_with_that_version(
    checkpoint: Path, output: Path, all_installed, monkeypatch, format: str
):
    import pocketdet.models.checkpoint as module

    with safetensors.safe_open(checkpoint, framework="pt") as file:
        tensors, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    metadata = {**json.loads(header["pocketdet"]), "pocketdet_version": "9.1", "attention": "flash"}
    header["pocketdet"] = json.dumps(metadata)
    header["sha256"] = module._checksum(tensors, header["pocketdet"])
    safetensors.torch.save_file(tensors, output.parent / "new.safetensors", header)
    with pytest.raises(
        ModelFileError, match=r"another version of pocketdet \(9\.1\).*not know: attention; update pocketdet"
    ):
        export(output.parent / "new.safetensors", output, format=format)
    assert not output.exists()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((40, 50, 3), 60 * number, np.uint8)).save(folder / f"{number}.png")
    return folder


def test_a_broken_calibration_picture_is_told_of_and_left_out(pictures: Path):
    whole = read_calibration(Calibration(pictures), METADATA, pytest.fail)
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:40])
    lines: list[str] = []
    found = read_calibration(Calibration(pictures), METADATA, lines.append)
    np.testing.assert_array_equal(found, whole[[0, 2]])
    [line] = lines
    assert re.match(r"int8: left out of the calibration: .*1\.png", line)


def test_mostly_broken_calibration_pictures_are_refused(pictures: Path):
    for number in (0, 2):
        (pictures / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"2 of 3 pictures for the calibration cannot be read, such as .*0\.png"):
        read_calibration(Calibration(pictures), METADATA, lambda line: None)


def test_an_empty_calibration_folder_is_refused(tmp_path: Path):
    with pytest.raises(ImageError, match="the folder has no pictures"):
        read_calibration(Calibration(tmp_path), METADATA, lambda line: None)


@pytest.mark.parametrize(("format", "package"), [("onnx", "onnx"), ("openvino", "openvino"), ("ncnn", "pnnx")])
def test_a_full_disk_stops_the_real_writers(output: Path, monkeypatch: pytest.MonkeyPatch, format: str, package: str):
    """The system lets no file grow beyond 2 MB, which these networks do; a full disk looks the same to a writer."""
    resource = pytest.importorskip("resource")
    pytest.importorskip(package)
    onnx = pytest.importorskip("onnx")
    model = ASSETS / "animals-small.onnx"
    monkeypatch.setattr(onnx_file, "float_graph", lambda conversion: onnx.load(model))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(ExportError, match="nothing was kept"):
            export(model, output, format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(output.parent.iterdir()) == []
