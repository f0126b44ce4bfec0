"""What each switch of a training does to AP: the same short run with one setting changed, over some seeds.

python benchmarks/ablation.py voc12-animals --start-weights v2.safetensors [--rows defaults "mosaic 0"] [--seeds 2]

It learns from a part of the train and extra2007 splits of a folder in VOC layout and judges by 600 other pictures of
them, so that no split that is reported elsewhere chooses a setting. They are the same ones for all rows and seeds.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from pocketdet.training import TrainSettings, train

CLASSES = ("cat", "cow", "dog", "horse", "person", "sheep")
JUDGES = 600
ROWS: dict[str, dict[str, object]] = {
    "defaults": {},
    "mosaic 0": {"mosaic": 0.0},
    "mixup 0.3": {"mixup": 0.3},
    "cutmix 0.3": {"cutmix": 0.3},
    "copy_paste 0.5": {"copy_paste": 0.5},
    "label_smoothing 0.1": {"label_smoothing": 0.1},
    "ema 0": {"ema": 0.0},
    "sgd 0.02": {"optimizer": "sgd", "learning_rate": 0.02},
    "learning_rate 0.003": {"learning_rate": 3e-3},
    "frozen 0.003": {"learning_rate": 3e-3, "freeze_epochs": 1000},
    "thawed 0.003": {"learning_rate": 3e-3, "freeze_epochs": 3, "backbone_learning_rate": 0.05},
    "box_loss diou": {"box_loss": "diou"},
    "box_loss giou": {"box_loss": "giou"},
    "shape_iou 1": {"shape_iou": 1.0},
    "grid_sensitivity off": {"grid_sensitivity": False},
    "class_weights": {"class_weights": True},
    "anchors kmeans": {"anchors": "kmeans"},
    "neck_activation mish": {"neck_activation": "mish"},
    "dropblock 0.1": {"dropblock": 0.1},
    "self_adversarial 0.1": {"self_adversarial": 0.1},
    "multi_scale 0.25": {"multi_scale": 0.25},
    "schedule constant": {"schedule": "constant"},
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="in VOC layout")
    parser.add_argument("--splits", nargs="+", default=["train", "extra2007"])
    parser.add_argument("--classes", nargs="*", default=CLASSES)
    parser.add_argument("--start-weights", type=Path, help="of MobileNet V2")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=1)
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "data").mkdir()
        data = divide(wish.data, wish.splits, Path(place) / "data")
        base = TrainSettings(
            neck_width=0.5,
            size=wish.size,
            epochs=wish.epochs,
            evaluate_every=wish.epochs,
            batch_size=32,
            learning_rate=2e-3,
            start_weights=wish.start_weights,
            train_splits=("fit",),
            val_split="judge",
            classes=tuple(wish.classes),
            workers=wish.workers,
        )
        print(f"{'run':24}{'AP':>16}{'AP50':>16}   one figure a seed, in percent")
        for row in wish.rows:
            results = []
            for seed in range(wish.seeds):
                changes: dict[str, object] = {"seed": seed, "output": Path(place) / f"{row} {seed}", **ROWS[row]}
                results.append(train(data, dataclasses.replace(base, **changes)))  # type: ignore[arg-type]
            ap, ap50 = (
                " ".join(f"{100 * value:.1f}" for value in values)
                for values in zip(*((result.ap, result.ap50) for result in results), strict=True)
            )
            print(f"{row:24}{ap:>16}{ap50:>16}", flush=True)


if __name__ == "__main__":
    main()
