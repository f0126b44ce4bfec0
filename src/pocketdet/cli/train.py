"""Train a detector."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pocketdet.cli.app import AsJson, app, examples, print_json
from pocketdet.training.settings import TrainSettings

DEFAULT_SETTINGS = TrainSettings()


@app.command(
    help_epilogue=examples(
        "pocketdet train my-pictures --epochs 60 --output runs/first",
        "pocketdet train my-pictures --model mobilenet_v2 --neck-width 0.5 --size 320",
        "pocketdet train my-pictures --start-weights animals --size 320 --freeze-epochs 100",
        "pocketdet train my-pictures --output runs/first --resume",
    )
)
def train(
    data: Path,
    /,
    *,
    settings: Annotated[TrainSettings, Parameter(name="*")] = DEFAULT_SETTINGS,
    as_json: AsJson = False,
) -> None:
    """Train a detector on your own labelled pictures.

    Ctrl-C leaves a checkpoint; the same command with --resume goes on from it. The best detector is
    best.safetensors in the output folder.

    Args:
        data: Folder with pictures and labels in the layout of Pascal VOC, COCO or YOLO.
    """
    from pocketdet.loading import TRAINING_PACKAGES, require_packages

    require_packages("training", TRAINING_PACKAGES)
    from pocketdet.training import train as run_training
    from pocketdet.training.processes import rank

    result = run_training(data, settings)
    if rank() > 0:
        return
    if as_json:
        print_json(result.to_dict())
    else:
        print(f"{result.best}: AP50 {result.ap50:.3f}, AP {result.ap:.3f} after {result.epochs} epochs")
