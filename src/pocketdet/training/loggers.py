"""Where the curves of a run go: TensorBoard always, Weights & Biases or MLflow where a person asked for them."""

import dataclasses
import importlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from pocketdet.errors import MissingExtraError
from pocketdet.training.settings import TrainSettings

PROJECT = "pocketdet"  # under which both services list our runs
RUN_IDS = "logger-runs.json"  # in the folder of the run: which run of a service a resumed training goes on with


class Logger(Protocol):
    """Takes the numbers of a run; TensorBoard's writer is one."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> object:
        """Note a number of an epoch."""


class _Wandb:
    def __init__(self, module: Any) -> None:
        self.module = module

    def add_scalar(self, name: str, value: float, epoch: int) -> None:
        self.module.log({name: value}, step=int(epoch))


class _Mlflow:
    def __init__(self, module: Any) -> None:
        self.module = module

    def add_scalar(self, name: str, value: float, epoch: int) -> None:
        self.module.log_metric(name, value, step=int(epoch))


@contextmanager
def open_loggers(folder: Path, next_epoch: int, settings: TrainSettings) -> Iterator[Sequence[Logger]]:
    """All loggers of a run.

    Args:
        folder: Of the run.
        next_epoch: What an interrupted run wrote of it is dropped, where the logger can.
        settings: Which loggers besides TensorBoard, and what they show as the run's settings.

    Raises:
        MissingExtraError: The package of a logger is not installed.
    """
    openers = {"wandb": _open_wandb, "mlflow": _open_mlflow}
    modules = {name: _import(name) for name in settings.logger}
    with ExitStack() as stack:
        loggers: list[Logger] = [stack.enter_context(_open_tensorboard(folder, next_epoch))]
        for name, module in modules.items():
            loggers.append(stack.enter_context(openers[name](module, folder, settings)))
        yield loggers


@contextmanager
def _open_tensorboard(folder: Path, next_epoch: int) -> Iterator[Logger]:
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=next_epoch)
    try:
        yield writer
    finally:
        writer.close()


@contextmanager
def _open_wandb(module: Any, folder: Path, settings: TrainSettings) -> Iterator[Logger]:
    """Online or not is wandb's own setting: WANDB_MODE."""
    run_id = _read_run_ids(folder).get("wandb") or uuid.uuid4().hex[:8]
    module.init(
        project=PROJECT, name=folder.name, id=run_id, resume="allow", dir=str(folder), config=_plain_values(settings)
    )
    _note_run_id(folder, "wandb", run_id)
    try:
        yield _Wandb(module)
    except BaseException:
        module.finish(exit_code=1)
        raise
    module.finish()


@contextmanager
def _open_mlflow(module: Any, folder: Path, settings: TrainSettings) -> Iterator[Logger]:
    """To the server of MLFLOW_TRACKING_URI, or else into a file in the folder of the run."""
    if "MLFLOW_TRACKING_URI" not in os.environ:
        module.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    module.set_experiment(PROJECT)
    run_id = _read_run_ids(folder).get("mlflow")
    run = module.start_run(run_id=run_id, run_name=folder.name)
    if run_id is None:
        module.log_params(_plain_values(settings))
        _note_run_id(folder, "mlflow", run.info.run_id)
    try:
        yield _Mlflow(module)
    except BaseException:
        module.end_run("KILLED")
        raise
    module.end_run()


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"logger {name} needs the package {name}, which cannot be imported here ({error}); "
            f"run: pip install {name}, or leave --logger {name} out"
        ) from error


def _plain_values(settings: TrainSettings) -> dict[str, object]:
    values: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return values


def _read_run_ids(folder: Path) -> dict[str, str]:
    path = folder / RUN_IDS
    ids: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return ids


def _note_run_id(folder: Path, name: str, run_id: str) -> None:
    (folder / RUN_IDS).write_text(json.dumps({**_read_run_ids(folder), name: run_id}) + "\n")
