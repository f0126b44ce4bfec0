import csv
import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pocketdet.errors import DataError, ModelFileError, SettingsError
from pocketdet.models.checkpoint import load_detector
from pocketdet.training import TrainSettings, train

SMALL = TrainSettings(
    model="mobilenet_v3_small",
    width=0.35,
    neck_width=0.125,
    size=64,
    epochs=3,
    batch_size=4,
    evaluate_every=2,
    checkpoint_minutes=0.0,
    bf16=False,
)


def final_state(output: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(output / "last.pt", weights_only=True)
    return {f"{part}.{name}": value for part in ("detector", "average") for name, value in saved[part].items()}


def read_results(output: Path) -> list[dict[str, str]]:
    path = output / "results.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def start_and_signal(data: Path, output: Path, number: signal.Signals) -> tuple[int, str]:
    """Begin a run from the command line, wait for its first checkpoint and send a signal."""
    arguments = "--model mobilenet_v3_small --width 0.35 --neck-width 0.125 --size 64 --epochs 3 --batch-size 4"
    arguments += " --evaluate-every 2 --checkpoint-minutes 0 --no-bf16"
    command = [sys.executable, "-m", "pocketdet", "train", str(data), *arguments.split(), "--output", str(output)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 200
        while not (output / "last.pt").exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(number)
        _, messages = run.communicate()
    return run.returncode, messages


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(drawn_voc: Path, tmp_path: Path) -> None:
    code, messages = start_and_signal(drawn_voc, tmp_path / "run", signal.SIGINT)
    assert code == 130
    assert f"--output {tmp_path / 'run'} --resume" in messages
    assert "Traceback" not in messages
    result = train(drawn_voc, TrainSettings(output=tmp_path / "run", resume=True))
    assert result.epochs == 3


def test_a_killed_run_resumes_and_ends_bit_for_bit_where_an_unbroken_one_ends(drawn_voc: Path, tmp_path: Path) -> None:
    unbroken = dataclasses.replace(SMALL, output=tmp_path / "unbroken")
    train(drawn_voc, unbroken)

    broken = tmp_path / "broken"
    code, _ = start_and_signal(drawn_voc, broken, signal.SIGKILL)
    assert code == -signal.SIGKILL, "the run ended before it could be killed"
    assert len(read_results(broken)) < 3

    train(drawn_voc, TrainSettings(output=broken, resume=True))
    expected, found = final_state(tmp_path / "unbroken"), final_state(broken)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_writes_its_best_detector_and_its_results(drawn_voc: Path, tmp_path: Path) -> None:
    result = train(drawn_voc, dataclasses.replace(SMALL, epochs=5, output=tmp_path / "run"))
    _, metadata = load_detector(result.best)
    assert metadata.class_names == ("blue thing", "red thing")
    assert metadata.training_data == "voc (train)"
    rows = read_results(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [bool(row["AP50"]) for row in rows] == [False, True, False, True, True]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert list((tmp_path / "run/tensorboard").iterdir())


def test_a_frozen_backbone_keeps_weights_and_batch_norm_statistics(drawn_voc: Path, tmp_path: Path) -> None:
    states = []
    for epochs in (1, 2):
        settings = dataclasses.replace(SMALL, epochs=epochs, freeze_epochs=2, output=tmp_path / str(epochs))
        train(drawn_voc, settings)
        states.append(torch.load(settings.output / "last.pt", weights_only=True)["detector"])
    first, second = states
    assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("backbone."))
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_a_folder_with_a_run_is_not_overwritten(drawn_voc: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"precious")
    with pytest.raises(SettingsError, match="--resume"):
        train(drawn_voc, dataclasses.replace(SMALL, output=tmp_path))
    assert (tmp_path / "last.pt").read_bytes() == b"precious"


def test_a_checkpoint_that_is_none_is_refused(drawn_voc: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no run to resume"):
        train(drawn_voc, dataclasses.replace(SMALL, output=tmp_path, resume=True))
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ModelFileError, match="cannot be read as a checkpoint"):
        train(drawn_voc, dataclasses.replace(SMALL, output=tmp_path, resume=True))


def test_an_unknown_class_is_named(drawn_voc: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="green thing"):
        train(drawn_voc, dataclasses.replace(SMALL, classes=("green thing",), output=tmp_path / "run"))


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(SettingsError, match="size is 100"):
        TrainSettings(size=100)
    with pytest.raises(SettingsError, match=r"mosaic is 1\.5"):
        TrainSettings(mosaic=1.5)


def test_resuming_with_data_of_other_classes_is_refused(drawn_voc: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train(drawn_voc, dataclasses.replace(SMALL, epochs=1, output=output))
    other = tmp_path / "other"
    shutil.copytree(drawn_voc, other)
    for label in (other / "Annotations").iterdir():
        label.write_text(label.read_text().replace("red thing", "green thing"))
    with pytest.raises(DataError, match="learned the classes blue thing, red thing"):
        train(other, TrainSettings(output=output, resume=True))


def test_validation_pictures_without_objects_are_refused_before_the_first_epoch(
    drawn_voc: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(drawn_voc, data)
    for name in (data / "ImageSets/Main/val.txt").read_text().split():
        (data / f"Annotations/{name}.xml").write_text("<annotation></annotation>")
    with pytest.raises(DataError, match="no labelled object in the 4 pictures"):
        train(data, dataclasses.replace(SMALL, output=tmp_path / "run"))


def test_without_a_val_split_a_tenth_is_held_out(
    drawn_voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    settings = dataclasses.replace(SMALL, epochs=1, val_split="holdout", seed=1, output=tmp_path / "run")
    train(drawn_voc, settings)
    assert "11 pictures to learn from, 1 to choose the best by" in capsys.readouterr().err
