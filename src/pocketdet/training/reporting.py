"""What a training run tells the person who waits for it."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pocketdet.training.loggers import Logger


def report_epoch(row: dict[str, float], console: Console, loggers: Sequence[Logger]) -> None:
    """Print a row of results and give it to the loggers."""
    parts = [f"epoch {row['epoch']:3.0f}"]
    parts += [f"{name} {value:.3f}" for name, value in row.items() if name.endswith("loss")]
    parts += [f"{name} {row[name]:.3f}" for name in ("AP", "AP50") if name in row]
    console.print("  ".join([*parts, f"{row['seconds']:.0f} s"]), markup=False, soft_wrap=True)
    for name, value in row.items():
        for logger in loggers if name != "epoch" else ():
            logger.add_scalar(name, value, int(row["epoch"]))


@contextmanager
def note_ctrl_c(console: Console) -> Iterator[list[bool]]:
    """A list that is no longer empty once somebody pressed Ctrl-C; a second press stops at once."""
    pressed: list[bool] = []

    def note(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)
        if not console.quiet:
            print("stopping after this step ...", file=sys.stderr)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: whoever runs it there handles Ctrl-C
        yield pressed
        return
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def progress_bar(console: Console) -> Progress:
    """Batches done and time left; silent where nobody looks."""
    columns: Sequence[Any] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    return Progress(
        *columns, console=console, speed_estimate_period=300, disable=console.quiet or not console.is_terminal
    )
