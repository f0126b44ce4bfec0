"""Records and detections by the handful, for numbers that are worked by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from pocketdet.core.detections import Detections
from pocketdet.datasets.records import Dataset, Record
from pocketdet.evaluation import Evaluation, evaluate

NAMES = ("cat", "dog", "emu")


def make_record(
    boxes: Sequence, class_ids: Sequence[int], difficult: Sequence[bool] = (), path: Path = Path("a.jpg")
) -> Record:
    return Record(
        path,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(class_ids, np.int64),
        np.array(difficult or [False] * len(class_ids), bool),
    )


def make_detections(boxes: Sequence, scores: Sequence[float], class_ids: Sequence[int]) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(class_ids, np.int64),
        NAMES,
        (100, 100),
    )


@pytest.fixture
def record() -> Callable[..., Record]:
    return make_record


@pytest.fixture
def detections() -> Callable[..., Detections]:
    return make_detections


@pytest.fixture
def measure() -> Callable[[Sequence[Record], Sequence[Detections]], tuple[Evaluation, Dataset]]:
    def evaluate_them(records: Sequence[Record], found: Sequence[Detections]) -> tuple[Evaluation, Dataset]:
        remaining = iter(found)
        dataset = Dataset(tuple(records), NAMES)
        return evaluate(lambda _: next(remaining), dataset), dataset

    return evaluate_them
