"""What test_processes.py lets torchrun do: train.

Arguments: what to do, the data, the folder for the runs.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

from pocketdet.training import TrainSettings, run, train

SETTINGS = TrainSettings(
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
INTERRUPTED = dataclasses.replace(SETTINGS, accumulate=2, freeze_epochs=1, workers=2)


def train_with_fixed_batch_norm(data: Path, output: Path, teacher: Path | None = None) -> None:
    """By SGD, which unlike AdamW notices gradients of a wrong scale."""
    set_mode = run._set_mode
    run._set_mode = lambda detector, *_: detector.eval()
    neck_width = SETTINGS.neck_width if teacher is None else 0.25  # another than the teacher's, so that it is adapted
    settings = dataclasses.replace(SETTINGS, neck_width=neck_width, teacher=teacher, output=output)
    train(data, dataclasses.replace(settings, optimizer="sgd", learning_rate=0.01))
    run._set_mode = set_mode


def die(seed: int, epoch: int, batch: int) -> None:
    """The second process is killed in the second epoch."""
    if (epoch, batch) == (1, 2) and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    purpose, data, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if purpose == "die":
        run.seed_batch = die
        train(data, dataclasses.replace(INTERRUPTED, output=output / "broken"))
    else:
        train(data, TrainSettings(output=output / "broken", resume=True))
        train(data, dataclasses.replace(INTERRUPTED, output=output / "unbroken"))
        train_with_fixed_batch_norm(data, output / "fixed")
        train_with_fixed_batch_norm(data, output / "taught", output / "unbroken")
