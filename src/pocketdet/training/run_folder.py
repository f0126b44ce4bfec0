"""The files of a run: last.pt to go on from, best.safetensors to use, results.csv to look at."""

import csv
import dataclasses
import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from pocketdet.errors import ModelFileError, SettingsError
from pocketdet.training.settings import TrainSettings

FORMAT = 1


@dataclasses.dataclass
class Progress:
    """How far a run has come; with the tensors of a checkpoint it is all that is needed to go on bit for bit."""

    epoch: int = 0
    batch: int = 0
    best_ap: float = -1.0
    sums: list[float] = dataclasses.field(default_factory=lambda: [0.0] * 4)
    seconds: float = 0.0
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)


class RunFolder:
    """Where a run lives.

    Args:
        path: The folder; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "last.pt"
        self.best = path / "best.safetensors"
        self.results = path / "results.csv"

    def start(self) -> None:
        """Claim the folder for a new run.

        Raises:
            SettingsError: It holds a run already.
        """
        if self.last.exists():
            raise SettingsError(
                f"{self.path} holds a run already; go on with it by --resume, or choose another folder by --output"
            )
        self.path.mkdir(parents=True, exist_ok=True)

    def save(self, progress: Progress, tensors: dict[str, Any], settings: TrainSettings) -> None:
        """Write ``last.pt``; a crash in the middle leaves the one before."""
        payload = {
            "format": FORMAT,
            "progress": json.dumps(dataclasses.asdict(progress)),
            "settings": json.dumps(dataclasses.asdict(settings), default=str),
            **tensors,
        }
        temporary = self.last.with_suffix(".writing")
        with temporary.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.last)

    def load(self) -> tuple[Progress, dict[str, Any], TrainSettings]:
        """Read ``last.pt``.

        Raises:
            ModelFileError: It is missing, cut, or not ours.
        """
        if not self.last.exists():
            raise ModelFileError(f"{self.last} does not exist; there is no run to resume in this folder")
        try:
            payload = torch.load(self.last, map_location="cpu", weights_only=True)
            progress = Progress(**json.loads(payload["progress"]))
            values = json.loads(payload["settings"])
        except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise ModelFileError(
                f"{self.last} cannot be read as a checkpoint of a run ({type(error).__name__}); "
                "it is cut or of a foreign kind"
            ) from error
        for name in ("start_weights", "output"):
            values[name] = Path(values[name]) if values[name] is not None else None
        for name in ("train_splits", "classes"):
            values[name] = tuple(values[name])
        return progress, payload, TrainSettings(**values)

    def write_results(self, rows: list[dict[str, float]]) -> None:
        """Write ``results.csv``, one row an epoch."""
        if not rows:
            return
        names = list(dict.fromkeys(name for row in rows for name in row))
        temporary = self.results.with_suffix(".writing")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.results)
