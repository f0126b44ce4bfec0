"""One labelled picture, the same whatever format it came from."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """A picture and its targets.

    Args:
        path: The picture.
        boxes: ``(T, 4)`` xyxy in image pixels of the upright picture (EXIF orientation applied), float32.
        class_ids: ``(T,)`` from 0, int64.
        difficult: ``(T,)`` VOC's mark: neither a miss nor a false positive when evaluated.
    """

    path: Path
    boxes: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    difficult: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set; the class list is a part of the labels.

    Args:
        records: Pictures without objects are among them, as negatives.
        class_names: In the order of the class ids.
        skipped: What was left out, one line each with the file and the reason.
    """

    records: tuple[Record, ...]
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()


def spread(items: Sequence[Item], most: int) -> tuple[Item, ...]:
    """Exactly ``most`` of them, evenly spread over the whole and in their order; all where there are no more."""
    count = min(most, len(items))
    return tuple(items[index * len(items) // count] for index in range(count))
