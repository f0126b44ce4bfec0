import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from pocketdet.cli import main
from pocketdet.errors import MissingExtraError
from pocketdet.training import TrainSettings
from pocketdet.training.loggers import open_loggers


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What stand-ins for both packages are asked to do."""
    found: list[tuple] = []

    def note(name: str, result: object = None) -> object:
        def call(*arguments: object, **named: object) -> object:
            found.append((name, *arguments, *sorted(named.items())))
            return result

        return call

    verbs = {"wandb": ("init", "log", "finish"), "mlflow": ("set_tracking_uri", "set_experiment", "log_params")}
    for name, functions in verbs.items():
        module = ModuleType(name)
        for function in (*functions, "log_metric", "end_run"):
            setattr(module, function, note(f"{name}.{function}"))
        module.start_run = note("mlflow.start_run", SimpleNamespace(info=SimpleNamespace(run_id="run-7")))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return found


def log_one_epoch(folder: Path, *names: str) -> None:
    with open_loggers(folder, 1, dataclasses.replace(TrainSettings(), logger=names)) as loggers:
        for logger in loggers:
            logger.add_scalar("loss", 2.5, 1)


def test_wandb_gets_settings_and_numbers_and_a_resumed_run_goes_on_with_the_same_one(
    calls: list[tuple], tmp_path: Path
) -> None:
    log_one_epoch(tmp_path, "wandb")
    log_one_epoch(tmp_path, "wandb")
    first, second = (dict(call[1:]) for call in calls if call[0] == "wandb.init")
    assert first["id"] == second["id"]
    assert first["config"]["epochs"] == 100
    assert ("wandb.log", {"loss": 2.5}, ("step", 1)) in calls
    assert calls[-1] == ("wandb.finish",)


def test_mlflow_writes_into_the_folder_of_the_run_unless_told_otherwise(
    calls: list[tuple], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_one_epoch(tmp_path, "mlflow")
    assert ("mlflow.set_tracking_uri", f"sqlite:///{tmp_path / 'mlflow.db'}") in calls
    assert ("mlflow.log_metric", "loss", 2.5, ("step", 1)) in calls
    calls.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    log_one_epoch(tmp_path, "mlflow")
    assert "mlflow.set_tracking_uri" not in [call[0] for call in calls]
    assert ("mlflow.start_run", ("run_id", "run-7"), ("run_name", tmp_path.name)) in calls
    assert "mlflow.log_params" not in [call[0] for call in calls]


def test_a_run_that_fails_is_not_marked_as_finished(calls: list[tuple], tmp_path: Path) -> None:
    settings = dataclasses.replace(TrainSettings(), logger=("wandb", "mlflow"))
    with pytest.raises(KeyboardInterrupt), open_loggers(tmp_path, 1, settings):
        raise KeyboardInterrupt
    assert calls[-2:] == [("mlflow.end_run", "KILLED"), ("wandb.finish", ("exit_code", 1))]


def test_without_being_asked_for_no_service_is_used(calls: list[tuple], tmp_path: Path) -> None:
    log_one_epoch(tmp_path)
    assert not calls
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_logger_that_is_not_installed_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"logger wandb needs the package wandb.*pip install wandb"):
        log_one_epoch(tmp_path, "wandb")


def test_a_training_sends_its_curves_and_keeps_its_loggers_when_it_is_resumed(
    calls: list[tuple], drawn_voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = "--model mobilenet_v3_small --width 0.35 --neck-width 0.125 --size 64 --epochs 1 --batch-size 4 --no-bf16"
    command = ["train", str(drawn_voc), "--output", str(tmp_path / "run")]
    assert main([*command, *options.split(), "--logger", "wandb", "mlflow"]) == 0
    sent = {name for call in calls if call[0] == "wandb.log" for name in call[1]}
    assert sent >= {"loss", "learning_rate", "AP50"}
    assert sent == {call[1] for call in calls if call[0] == "mlflow.log_metric"}
    calls.clear()
    assert main([*command, "--resume"]) == 0
    assert {call[0] for call in calls} >= {"wandb.init", "mlflow.start_run"}
    assert set(json.loads((tmp_path / "run" / "logger-runs.json").read_text())) == {"wandb", "mlflow"}
