"""Which pictures a run learns from, and which choose its best checkpoint."""

import dataclasses
from pathlib import Path

import numpy as np

from pocketdet.datasets.load import has_split, load_dataset
from pocketdet.datasets.records import Dataset, Record
from pocketdet.errors import DataError
from pocketdet.training.settings import TrainSettings

HOLDOUT = "holdout"
HOLDOUT_SHARE = 0.1


def split_data(data: Path, settings: TrainSettings) -> tuple[Dataset, Dataset]:
    """Pictures to learn from and pictures to choose the best checkpoint by; the same ones only where a person asks."""
    training, validation = _find_splits(data, settings)
    if len(training.records) < 2 or not _has_objects(training):
        raise DataError(f"{data}: nothing to learn from; at least two pictures and one labelled object are needed")
    if not _has_objects(validation):
        raise DataError(
            f"{data}: no labelled object in the {len(validation.records)} pictures that choose the best checkpoint; "
            "name another split by --val-split"
        )
    return training, validation


def _has_objects(dataset: Dataset) -> bool:
    return any(len(record.boxes) for record in dataset.records)


def _find_splits(data: Path, settings: TrainSettings) -> tuple[Dataset, Dataset]:
    training = load_dataset(data, settings.train_splits, settings.classes)
    split = settings.val_split or ("val" if has_split(data, "val") else HOLDOUT)
    if split != HOLDOUT:
        return training, load_dataset(data, (split,), training.class_names)
    order = np.random.default_rng(settings.seed).permutation(len(training.records))
    held = set(order[: max(1, round(HOLDOUT_SHARE * len(order)))].tolist())

    def part(chosen: bool) -> tuple[Record, ...]:
        return tuple(record for index, record in enumerate(training.records) if (index in held) == chosen)

    return dataclasses.replace(training, records=part(False)), Dataset(part(True), training.class_names)
