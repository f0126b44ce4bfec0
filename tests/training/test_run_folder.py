"""A checkpoint that is cut, changed or interrupted never costs more than the time since the one before."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketdet.errors import ModelFileError, SettingsError
from pocketdet.training.run_folder import Progress, RunFolder
from pocketdet.training.settings import TrainSettings


class Killed(BaseException):
    """What a SIGKILL looks like from within: nothing after it happens."""


def save(folder: RunFolder, epoch: int) -> None:
    folder.save(Progress(epoch=epoch), {"weights": torch.full((64,), float(epoch))}, TrainSettings())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    save(folder, 1)
    save(folder, 2)
    return folder


def damaged(written: RunFolder, path: Path, content: bytes) -> RunFolder:
    """A folder whose previous.pt is good and whose last.pt has this content."""
    folder = RunFolder(path)
    folder.previous.write_bytes(written.previous.read_bytes())
    folder.last.write_bytes(content)
    return folder


def test_a_whole_checkpoint_is_read_without_a_note(written: RunFolder) -> None:
    found = written.load()
    assert (found.progress.epoch, found.notes) == (2, ())
    assert torch.equal(found.tensors["weights"], torch.full((64,), 2.0))


@pytest.mark.parametrize("kept", [0, 1, 32, 500, -40, -32, -1])
def test_instead_of_a_cut_checkpoint_the_one_before_is_read_and_named(
    kept: int, written: RunFolder, tmp_path: Path
) -> None:
    content = written.last.read_bytes()[:kept]
    folder = damaged(written, tmp_path, content)
    found = folder.load()
    assert found.progress.epoch == 1
    assert str(folder.last) in found.notes[0]
    assert f"going on from {folder.previous}" in found.notes[1]
    assert (tmp_path / "last.broken").read_bytes() == content


@given(place=st.integers(0, 10**6), change=st.integers(1, 255))
def test_a_changed_byte_anywhere_is_noticed(
    place: int, change: int, written: RunFolder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(written.last.read_bytes())
    content[place % len(content)] ^= change
    folder = damaged(written, tmp_path_factory.mktemp("changed"), bytes(content))
    assert folder.load().progress.epoch == 1


def test_changed_weights_are_called_changed(written: RunFolder, tmp_path: Path) -> None:
    two, three = (torch.full((64,), value).numpy().tobytes() for value in (2.0, 3.0))
    content = written.last.read_bytes()
    assert content.count(two) == 1
    folder = damaged(written, tmp_path, content.replace(two, three))
    assert "its SHA-256 differs" in folder.load().notes[0]


def test_two_broken_checkpoints_are_both_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.last.write_bytes(b"broken")
    folder.previous.write_bytes(b"broken too")
    with pytest.raises(ModelFileError, match=r"last\.pt cannot be read .*previous\.pt cannot be read"):
        folder.load()
    assert folder.last.read_bytes() == b"broken"


def test_a_folder_with_only_a_previous_checkpoint_is_not_overwritten(written: RunFolder, tmp_path: Path) -> None:
    folder = damaged(written, tmp_path, b"")
    folder.last.unlink()
    with pytest.raises(SettingsError, match="holds a run already"):
        folder.start()


def kill_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """Let the numbered call of ``os.name`` end the process instead."""
    original, calls = getattr(os, name), []

    def dying(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > call:
            raise Killed
        original(*arguments)

    monkeypatch.setattr(os, name, dying)


@pytest.mark.parametrize(
    ("is_newest_broken", "name", "call"),
    [
        (False, "fsync", 0),
        (False, "replace", 0),
        (False, "replace", 1),
        (True, "fsync", 0),
        (True, "replace", 0),
    ],
)
def test_a_kill_in_any_part_of_a_write_leaves_the_checkpoint_before_it(
    is_newest_broken: bool, name: str, call: int, written: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"broken" if is_newest_broken else written.last.read_bytes()
    folder = damaged(written, tmp_path, content)
    before = folder.load().progress.epoch
    kill_at(monkeypatch, name, call)
    with pytest.raises(Killed):
        save(folder, 3)
    assert folder.load().progress.epoch == before
    monkeypatch.undo()
    save(folder, 4)
    assert folder.load().progress.epoch == 4


def test_a_checkpoint_of_version_0_1_without_a_checksum_is_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    progress = '{"epoch": 7, "batch": 0, "best_ap": 0.5, "sums": [0, 0, 0, 0], "seconds": 0, "rows": []}'
    settings = '{"output": "run", "start_weights": null, "train_splits": ["train"], "classes": []}'
    torch.save({"format": 1, "progress": progress, "settings": settings}, folder.last)
    assert folder.load().progress.epoch == 7


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"file/run cannot be the folder of a run: Not a directory; choose another"):
        RunFolder(tmp_path / "file" / "run").start()
