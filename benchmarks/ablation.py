"""What each switch of a training does to AP: the same short run with one setting changed, over some seeds.

python benchmarks/ablation.py bccd --results FILE [--rows base "mosaic 0"] [--seeds 0 1]

It learns from two thirds of the given splits of a folder in VOC layout and judges by the others (600 at most), so that
no split that is reported elsewhere chooses a setting. They are the same pictures for all rows and seeds. Every run is
written to FILE, a line each, when it is done; what is in there already is not run again, so that several processes,
with other rows or seeds, can share the work (with a core each they do more together than one on both), and one that
was stopped goes on. At the end the table is printed. The base has the defaults from before the first such table, which
changed three of them.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from pocketdet import load
from pocketdet.datasets.load import load_dataset
from pocketdet.evaluation import evaluate
from pocketdet.training import TrainSettings, train

JUDGES = 600
FIXED = 1000  # epochs: more than any run has
DIOU_NMS = "nms diou"  # the detector of the base run, other boxes suppressed
TEACHER = "teacher"  # the base run with a neck of full width, on the same pictures
BEFORE: dict[str, object] = {"learning_rate": 1.5e-3, "backbone_learning_rate": 0.3, "class_weights": False}
ROWS: dict[str, dict[str, object]] = {
    "base": {},
    "mosaic 0": {"mosaic": 0.0},
    "mixup 0.3": {"mixup": 0.3},
    "cutmix 0.3": {"cutmix": 0.3},
    "copy-paste 0.5": {"copy_paste": 0.5},
    "flip 0": {"flip": 0.0},
    "turn 0.75": {"turn": 0.75},
    "plain-epochs 0": {"plain_epochs": 0.0},
    "multi-scale 0.25": {"multi_scale": 0.25},
    "self-adversarial 0.1": {"self_adversarial": 0.1},
    "dropblock 0.1": {"dropblock": 0.1},
    "label-smoothing 0.1": {"label_smoothing": 0.1},
    "class-weights": {"class_weights": True},
    "box-loss diou": {"box_loss": "diou"},
    "box-loss giou": {"box_loss": "giou"},
    "shape-iou 1": {"shape_iou": 1.0},
    "no-grid-sensitivity": {"grid_sensitivity": False},
    "anchors kmeans": {"anchors": "kmeans"},
    "neck-activation mish": {"neck_activation": "mish"},
    "ema 0": {"ema": 0.0},
    "schedule constant": {"schedule": "constant"},
    "warmup-epochs 0": {"warmup_epochs": 0.0},
    "weight-decay 0": {"weight_decay": 0.0},
    "optimizer sgd": {"optimizer": "sgd", "learning_rate": 0.01},
    "learning-rate 0.0007": {"learning_rate": 7e-4},
    "learning-rate 0.003": {"learning_rate": 3e-3},
    "learning-rate 0.003, backbone 0.1": {"learning_rate": 3e-3, "backbone_learning_rate": 0.1},
    "the same, class-weights": {"learning_rate": 3e-3, "backbone_learning_rate": 0.1, "class_weights": True},
    "accumulate 2": {"accumulate": 2, "batch_size": 8},
    "accumulate 2, cross-batch-norm": {"accumulate": 2, "batch_size": 8, "cross_batch_norm": True},
    "freeze-batch-norm": {"freeze_batch_norm": True},
    "backbone-learning-rate 0.05": {"backbone_learning_rate": 0.05},
    "backbone-learning-rate 0.1": {"backbone_learning_rate": 0.1},
    "backbone-learning-rate 1": {"backbone_learning_rate": 1.0},
    "freeze-epochs 10": {"freeze_epochs": 10},
    "backbone fixed": {"freeze_epochs": FIXED},
    "start-weights none": {"start_weights": Path("none")},
    DIOU_NMS: {},
    TEACHER: {},
}


def divide(data: Path, splits: list[str], folder: Path) -> Path:
    """A data set beside the first one, with the same files and the splits fit and judge."""
    for name in ("Annotations", "JPEGImages"):
        (folder / name).symlink_to((data / name).resolve(), target_is_directory=True)
    lists, own = data / "ImageSets" / "Main", folder / "ImageSets" / "Main"
    own.mkdir(parents=True)
    names = sorted({line.split()[0] for split in splits for line in (lists / f"{split}.txt").open() if line.strip()})
    judges = set(np.random.default_rng(7).permutation(len(names))[: min(JUDGES, len(names) // 3)].tolist())
    for split, judge in (("fit", False), ("judge", True)):
        chosen = [name for index, name in enumerate(names) if (index in judges) == judge]
        (own / f"{split}.txt").write_text("\n".join(chosen) + "\n")
    return folder


def run(data: Path, row: str, settings: TrainSettings) -> dict[str, float]:
    """AP and AP50 of one training."""
    if row == TEACHER:
        teacher = dataclasses.replace(settings, neck_width=1.0, output=settings.output / "teacher")
        settings = dataclasses.replace(settings, teacher=train(data, teacher).best, output=settings.output / "student")
    result = train(data, settings)
    if row != DIOU_NMS:
        return {"AP": result.ap, "AP50": result.ap50}
    measured = evaluate(
        load(settings.output, nms="diou").predict_record, load_dataset(data, ("judge",), settings.classes)
    )
    return {"AP": measured.ap, "AP50": measured.ap50}


def read_results(file: Path) -> dict[tuple[str, int], dict[str, float]]:
    lines = file.read_text().splitlines() if file.exists() else []
    found = [json.loads(line) for line in lines]
    return {(line["row"], line["seed"]): line for line in found}


def print_table(results: dict[tuple[str, int], dict[str, float]]) -> None:
    print("| run | AP | AP50 | mean AP50 less base's |\n|---|---|---|---|")
    by_row = {row: [line for (name, _), line in sorted(results.items()) if name == row] for row in ROWS}
    base = statistics.fmean(line["AP50"] for line in by_row["base"]) if by_row["base"] else 0.0
    for row, lines in by_row.items():
        if lines:
            ap, ap50 = (", ".join(f"{100 * line[name]:.1f}" for line in lines) for name in ("AP", "AP50"))
            difference = 100 * (statistics.fmean(line["AP50"] for line in lines) - base)
            print(f"| {row} | {ap} | {ap50} | {difference:+.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="in VOC layout")
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    parser.add_argument("--classes", nargs="*", default=[], help="by default all")
    parser.add_argument("--start-weights", type=Path, help="of MobileNet V2; by default the bundled ones")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--threads", type=int, default=1)
    wish = parser.parse_args()
    torch.set_num_threads(wish.threads)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "data").mkdir()
        data = divide(wish.data, wish.splits, Path(place) / "data")
        base = TrainSettings(
            neck_width=0.25,
            size=wish.size,
            epochs=wish.epochs,
            evaluate_every=wish.epochs,
            **BEFORE,  # type: ignore[arg-type]
            start_weights=wish.start_weights,
            train_splits=("fit",),
            val_split="judge",
            classes=tuple(wish.classes),
        )
        for seed in wish.seeds:
            for row in wish.rows:
                if (row, seed) in read_results(wish.results):
                    continue
                changes: dict[str, object] = {"seed": seed, "output": Path(place) / f"{row} {seed}", **ROWS[row]}
                settings = dataclasses.replace(base, **changes)  # type: ignore[arg-type]
                line = {"row": row, "seed": seed, **run(data, row, settings)}
                with wish.results.open("a") as file:
                    print(json.dumps(line), file=file)
    print_table(read_results(wish.results))


if __name__ == "__main__":
    main()
