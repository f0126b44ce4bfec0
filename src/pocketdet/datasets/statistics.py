"""Counts and sizes of what a split holds."""

import collections
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.metadata import YOLOV4_ANCHORS
from pocketdet.datasets.anchors import AnchorFit, OwnAnchors, fit_anchors, measure_fit
from pocketdet.datasets.records import Record

BIN_EDGES = (8, 16, 32, 64, 128, 256)  # square roots of areas, input pixels
_SMALLEST = 5  # objects that are named


class SplitStatistics(NamedTuple):
    """One split."""

    name: str
    pictures: int
    negatives: int  # pictures without objects
    objects: int
    classes: dict[str, int]  # objects of each class
    box_sizes: dict[str, int]  # objects by the square root of their area, input pixels


class SmallObject(NamedTuple):
    """An object that the network sees small."""

    file: Path  # the picture
    class_name: str
    width: float  # input pixels
    height: float  # input pixels


class Figures(NamedTuple):
    """What a data set holds, and how it suits the network."""

    splits: tuple[SplitStatistics, ...]
    anchors: AnchorFit | None  # of YOLOv4's anchors; without objects there is none
    own_anchors: OwnAnchors | None  # by k-means; none with fewer than nine different boxes
    smallest: tuple[SmallObject, ...]  # by area, smallest first


def measure_figures(
    splits: Mapping[str, Sequence[Record]], scales: Mapping[Path, float], names: Sequence[str]
) -> Figures:
    """Count and measure.

    Args:
        splits: The pictures of each split.
        scales: Of each picture: input pixels per image pixel.
        names: The classes, in the order of their ids.
    """
    records = [record for found in splits.values() for record in found]
    sizes = _input_sizes(records, scales)
    return Figures(
        tuple(_count_split(split, found, scales, names) for split, found in splits.items()),
        measure_fit(sizes, YOLOV4_ANCHORS),
        fit_anchors(sizes),
        tuple(_find_smallest(records, scales, names)),
    )


def _count_split(
    name: str, records: Sequence[Record], scales: Mapping[Path, float], names: Sequence[str]
) -> SplitStatistics:
    sides = np.sqrt(_input_sizes(records, scales).prod(axis=1))
    bins = np.bincount(np.digitize(sides, BIN_EDGES), minlength=len(BIN_EDGES) + 1)
    ids = collections.Counter(int(class_id) for record in records for class_id in record.class_ids)
    return SplitStatistics(
        name,
        len(records),
        sum(len(record.boxes) == 0 for record in records),
        len(sides),
        {class_name: ids[class_id] for class_id, class_name in enumerate(names)},
        dict(zip(_bin_names(), bins.tolist(), strict=True)),
    )


def _input_sizes(records: Sequence[Record], scales: Mapping[Path, float]) -> NDArray[np.float32]:
    """``(T, 2)`` widths and heights of all boxes, input pixels."""
    sizes = [(record.boxes[:, 2:] - record.boxes[:, :2]) * scales[record.path] for record in records]
    return np.concatenate([np.zeros((0, 2), np.float32), *sizes], dtype=np.float32)


def _find_smallest(records: Sequence[Record], scales: Mapping[Path, float], names: Sequence[str]) -> list[SmallObject]:
    sizes = _input_sizes(records, scales)
    places = [(record, number) for record in records for number in range(len(record.boxes))]
    found = []
    for index in np.argsort(sizes.prod(axis=1), kind="stable")[:_SMALLEST]:
        record, number = places[index]
        width, height = sizes[index].tolist()
        found.append(SmallObject(record.path, names[record.class_ids[number]], width, height))
    return found


def _bin_names() -> list[str]:
    between = [f"{low}-{high}" for low, high in itertools.pairwise(BIN_EDGES)]
    return [f"<{BIN_EDGES[0]}", *between, f">={BIN_EDGES[-1]}"]
