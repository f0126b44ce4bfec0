"""The files of a run: last.pt and previous.pt to go on from, best.safetensors to use, results.csv to look at ..."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pocketdet.errors import ModelFileError, SettingsError
from pocketdet.training.settings import TrainSettings

FORMAT = 2
SEALED_SINCE = 2  # checkpoints of this format and later end with the SHA-256 of all before it
DIGEST_BYTES = hashlib.sha256().digest_size


@dataclasses.dataclass
class Progress:
    """How far a run has come; with the tensors of a checkpoint it is all that is needed to go on bit for bit."""

    epoch: int = 0
    batch: int = 0
    best_ap: float = -1.0
    sums: list[float] = dataclasses.field(default_factory=list)  # of each term of the loss; empty before the first step
    seconds: float = 0.0
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)


class Checkpoint(NamedTuple):
    """What ``RunFolder.load`` found."""

    progress: Progress
    tensors: dict[str, Any]
    settings: TrainSettings
    notes: tuple[str, ...] = ()  # what a person should know: which file was broken and which one was taken


class RunFolder:
    """Where a run lives.

    Args:
        path: The folder; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "last.pt"
        self.previous = path / "previous.pt"
        self.best = path / "best.safetensors"
        self.results = path / "results.csv"
        self.pseudo_labels = path / "pseudo_labels.json"

    def start(self) -> None:
        """Claim the folder for a new run.

        Raises:
            SettingsError: It holds a run already, or cannot be made or written.
        """
        if self.last.exists() or self.previous.exists():
            raise SettingsError(
                f"{self.path} holds a run already; go on with it by --resume, or choose another folder by --output"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise SettingsError(
                f"{self.path} cannot be the folder of a run: {error.strerror}; choose another by --output"
            ) from error

    def save(self, progress: Progress, tensors: dict[str, Any], settings: TrainSettings) -> None:
        """Write ``last.pt`` and keep the one before as ``previous.pt``.

        Whenever this is cut off, one of the two is a whole checkpoint, not older than the last that was finished.
        """
        payload = {
            "format": FORMAT,
            "progress": json.dumps(dataclasses.asdict(progress)),
            "settings": json.dumps(dataclasses.asdict(settings), default=str),
            **tensors,
        }
        content = io.BytesIO()
        torch.save(payload, content)
        temporary = self.last.with_suffix(".writing")
        with temporary.open("wb") as file:
            file.write(content.getbuffer())
            file.write(hashlib.sha256(content.getbuffer()).digest())
            file.flush()
            os.fsync(file.fileno())
        if self.last.exists():
            os.replace(self.last, self.previous)
        os.replace(temporary, self.last)

    def load(self) -> Checkpoint:
        """Read ``last.pt``, or ``previous.pt`` where that is missing or broken.

        A broken ``last.pt`` is set aside as ``last.broken``, so that it never takes the place of a good one.

        Raises:
            ModelFileError: There is no checkpoint, or none that is whole and ours.
        """
        if not self.last.exists() and not self.previous.exists():
            raise ModelFileError(f"{self.last} does not exist; there is no run to resume in this folder")
        notes: list[str] = []
        for path in (self.last, self.previous):
            try:
                found = _read(path)
            except ModelFileError as error:
                notes.append(str(error))
                continue
            if path == self.last:
                return found
            if self.last.exists():
                os.replace(self.last, self.last.with_suffix(".broken"))
            return found._replace(notes=(*notes, f"going on from {path}, the checkpoint before it"))
        raise ModelFileError(f"{'; '.join(notes)}; begin again in another folder by --output")

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


def _read(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        ModelFileError: It is missing, cut, changed, or not ours.
    """
    if not path.exists():
        raise ModelFileError(f"{path} does not exist")
    content = path.read_bytes()
    is_sealed = hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]
    try:
        payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        must_be_sealed = payload["format"] >= SEALED_SINCE
        progress = Progress(**json.loads(payload["progress"]))
        values = json.loads(payload["settings"])
        for name in ("start_weights", "teacher", "pseudo_label", "output"):
            values[name] = Path(values[name]) if values.get(name) is not None else None
        for name in ("train_splits", "classes", "logger"):
            values[name] = tuple(values.get(name, ()))
        settings = TrainSettings(**values)
    except Exception as error:  # damaged bytes make torch raise nearly anything
        raise ModelFileError(
            f"{path} cannot be read as a checkpoint of a run ({type(error).__name__}); it is cut or of a foreign kind"
        ) from error
    if must_be_sealed and not is_sealed:
        raise ModelFileError(f"{path} was changed after it was written: its SHA-256 differs")
    return Checkpoint(progress, payload, settings)
