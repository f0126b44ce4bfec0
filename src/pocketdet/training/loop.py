"""The training loop, on Lightning Fabric, to be read in one go."""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from pocketdet.training.loggers import open_loggers
from pocketdet.training.memory import keep_freed_memory
from pocketdet.training.prepare import prepare
from pocketdet.training.processes import join_processes, on_first, rank
from pocketdet.training.reporting import note_ctrl_c, progress_bar, report_epoch
from pocketdet.training.run import Run
from pocketdet.training.run_report import write_run_report
from pocketdet.training.settings import TrainSettings


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Args:
        best: The detector with the best AP on the validation pictures.
        epochs: How many were trained.
        ap: Of ``best``, COCO's AP at IoU 0.50:0.95 on the validation pictures.
        ap50: Of the same epoch, at IoU 0.50.
    """

    best: Path
    epochs: int
    ap: float
    ap50: float

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return {"best": str(self.best), "epochs": self.epochs, "AP": self.ap, "AP50": self.ap50}


def train(data: Path, settings: TrainSettings) -> TrainResult:
    """Train a detector.

    Args:
        data: A folder in VOC, COCO or YOLO layout, or its ``data.yaml``.
        settings: With ``resume`` all others come from the run in the output folder.

    Raises:
        DataError: Nothing to train on, or a class or split that the labels do not know.
        SettingsError: The output folder holds a run already.
        ModelFileError: Start weights or checkpoint cannot be used.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
    """
    keep_freed_memory()
    join_processes()
    console = Console(stderr=True, highlight=False, quiet=rank() > 0)
    run, training, validation = prepare(data, settings, console)
    settings, progress = run.settings, run.progress
    with (
        note_ctrl_c(console) as interrupted,
        progress_bar(console) as bar,
        open_loggers(run.folder.path, progress.epoch + 1, settings) if rank() == 0 else nullcontext() as loggers,
    ):
        done = progress.epoch * len(run.batches) + progress.batch
        task = bar.add_task("", total=settings.epochs * len(run.batches), completed=done)
        while progress.epoch < settings.epochs and not has_stalled(progress.rows, settings.patience):
            bar.update(task, description=f"epoch {progress.epoch + 1}/{settings.epochs}")
            if not run.train_epoch(lambda: bar.advance(task), interrupted):
                console.print(_how_to_go_on(data, run), markup=False, soft_wrap=True)
                raise KeyboardInterrupt
            row = run.close_epoch()
            if progress.epoch % settings.evaluate_every == 0 or progress.epoch == settings.epochs:
                row |= on_first(lambda: run.evaluate(validation))
            progress.rows.append(row)
            if loggers is not None:
                report_epoch(row, console, loggers)
                run.folder.write_results(progress.rows)
                run.save()
    if rank() == 0:
        write_run_report(settings, progress.rows, training, validation, run.fabric.device, console)

    best = max((row for row in progress.rows if "AP" in row), key=lambda row: row["AP"])
    return TrainResult(run.folder.best, len(progress.rows), best["AP"], best["AP50"])


def _how_to_go_on(data: Path, run: Run) -> str:
    return (
        f"stopped in epoch {run.progress.epoch + 1}; nothing is lost. Go on with: "
        f"pocketdet train {data} --output {run.settings.output} --resume"
    )


def has_stalled(rows: Sequence[dict[str, float]], patience: int) -> bool:
    """Whether the last ``patience`` evaluations brought no better AP; never with a patience of 0."""
    scores = [row["AP"] for row in rows if "AP" in row]
    return bool(scores) and 0 < patience < len(scores) - scores.index(max(scores))
