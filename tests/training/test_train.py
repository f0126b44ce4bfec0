import csv
import dataclasses
import os
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
from pocketdet.training.loop import has_stalled

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


def start_and_signal(data: Path, output: Path, number: signal.Signals, workers: int = 0) -> tuple[int, str]:
    """Begin a run from the command line, wait for its first checkpoint and send a signal."""
    arguments = "--model mobilenet_v3_small --width 0.35 --neck-width 0.125 --size 64 --epochs 3 --batch-size 4"
    arguments += f" --evaluate-every 2 --checkpoint-minutes 0 --no-bf16 --workers {workers}"
    command = [sys.executable, "-m", "pocketdet", "train", str(data), *arguments.split(), "--output", str(output)]
    messages = output.with_suffix(".txt")
    with (
        messages.open("w") as file,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file) as run,
    ):
        deadline = time.monotonic() + 200
        while not (output / "last.pt").exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(number)
    return run.returncode, messages.read_text()


@pytest.fixture(scope="module")
def unbroken(drawn_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with mosaic and moving average that nothing interrupted."""
    assert SMALL.mosaic > 0
    assert SMALL.ema > 0
    output = tmp_path_factory.mktemp("unbroken")
    train(drawn_voc, dataclasses.replace(SMALL, output=output))
    return output


def assert_equal_states(output: Path, other: Path) -> None:
    expected, found = final_state(output), final_state(other)
    assert expected.keys() == found.keys()
    different = [name for name in expected if not torch.equal(expected[name], found[name])]
    assert not different


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(drawn_voc: Path, tmp_path: Path) -> None:
    code, messages = start_and_signal(drawn_voc, tmp_path / "run", signal.SIGINT)
    assert code == 130
    assert f"--output {tmp_path / 'run'} --resume" in messages
    assert "Traceback" not in messages
    result = train(drawn_voc, TrainSettings(output=tmp_path / "run", resume=True))
    assert result.epochs == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_resumes_and_ends_bit_for_bit_where_an_unbroken_one_ends(
    workers: int, drawn_voc: Path, unbroken: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    code, _ = start_and_signal(drawn_voc, broken, signal.SIGKILL, workers)
    assert code == -signal.SIGKILL, "the run ended before it could be killed"
    assert len(read_results(broken)) < 3

    train(drawn_voc, TrainSettings(output=broken, resume=True))
    assert_equal_states(unbroken, broken)


def test_a_run_whose_newest_checkpoint_is_cut_goes_on_from_the_one_before(
    drawn_voc: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(unbroken, broken)
    content = (broken / "last.pt").read_bytes()
    (broken / "last.pt").write_bytes(content[: len(content) // 2])
    train(drawn_voc, TrainSettings(output=broken, resume=True))
    messages = capsys.readouterr().err
    assert f"{broken / 'last.pt'} cannot be read" in messages
    assert f"going on from {broken / 'previous.pt'}" in messages
    assert_equal_states(unbroken, broken)


def test_ctrl_c_in_the_last_batch_of_an_epoch_loses_nothing(
    drawn_voc: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(seed: int, epoch: int, batch: int) -> None:
        if batch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("pocketdet.training.run.seed_batch", press)
    with pytest.raises(KeyboardInterrupt):
        train(drawn_voc, dataclasses.replace(SMALL, output=tmp_path / "run"))
    monkeypatch.undo()
    train(drawn_voc, TrainSettings(output=tmp_path / "run", resume=True))
    assert_equal_states(unbroken, tmp_path / "run")


def test_accumulated_batches_give_the_losses_of_one_large_batch(
    drawn_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fixed batch norm, as the moving one sees fewer pictures at once; by SGD, which notices a wrong scale."""
    monkeypatch.setattr("pocketdet.training.run._set_mode", lambda detector, *_: detector.eval())
    losses = []
    for batch_size, accumulate in ((4, 1), (2, 2)):
        output = tmp_path / str(batch_size)
        settings = dataclasses.replace(SMALL, optimizer="sgd", learning_rate=0.01, output=output)
        train(drawn_voc, dataclasses.replace(settings, batch_size=batch_size, accumulate=accumulate))
        losses.append([float(row["loss"]) for row in read_results(output)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_run_whose_ap_does_not_rise_any_more_stops_early(drawn_voc: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, epochs=9, evaluate_every=1, patience=2, learning_rate=1e-12)
    result = train(drawn_voc, dataclasses.replace(settings, output=tmp_path / "run"))
    assert result.epochs == 3
    assert train(drawn_voc, TrainSettings(output=tmp_path / "run", resume=True)).epochs == 3


def test_patience_counts_evaluations_since_the_first_best_one() -> None:
    rows = [{"epoch": 1.0}, *({"AP": ap} for ap in (0.1, 0.3, 0.3, 0.2))]
    assert has_stalled(rows, patience=2)
    assert not has_stalled(rows, patience=3)
    assert not has_stalled(rows, patience=0)
    assert not has_stalled(rows[:1], patience=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_synchronised_batch_norm_is_refused_without_a_gpu(drawn_voc: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="sync_batch_norm is on and this training runs on cpu"):
        train(drawn_voc, dataclasses.replace(SMALL, sync_batch_norm=True, output=tmp_path / "run"))


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
    with pytest.raises(SettingsError, match="accumulate is 0"):
        TrainSettings(accumulate=0)
    with pytest.raises(SettingsError, match="patience is -1"):
        TrainSettings(patience=-1)


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


def test_a_run_that_is_judged_by_what_it_learns_from_says_so(
    drawn_voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train(drawn_voc, dataclasses.replace(SMALL, epochs=1, output=tmp_path / "run"))
    assert "learned from as well" not in capsys.readouterr().err
    everything = dataclasses.replace(SMALL, epochs=1, train_splits=("train", "val"), output=tmp_path / "all")
    train(drawn_voc, everything)
    assert "4 of the pictures that choose the best detector are learned from as well" in capsys.readouterr().err


def test_frozen_batch_norm_keeps_its_statistics_while_the_weights_learn(drawn_voc: Path, tmp_path: Path) -> None:
    states = []
    for epochs in (1, 2):
        settings = dataclasses.replace(SMALL, epochs=epochs, freeze_batch_norm=True, output=tmp_path / str(epochs))
        train(drawn_voc, settings)
        states.append(torch.load(settings.output / "last.pt", weights_only=True)["detector"])
    first, second = states
    statistics = [name for name in first if name.startswith("backbone.") and "running" in name]
    assert statistics
    assert all(torch.equal(first[name], second[name]) for name in statistics)
    stem = "backbone.features.0.0.weight"
    assert not torch.equal(first[stem], second[stem])
