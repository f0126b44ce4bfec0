"""Switches of a run reach its checkpoint, and what is impossible is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketdet.errors import DataError, SettingsError
from pocketdet.loading import load
from pocketdet.training import TrainSettings, train

SWITCHED = TrainSettings(
    model="mobilenet_v3_small", width=0.35, neck_width=0.125, size=64, epochs=1, batch_size=4, bf16=False,
    box_loss="giou", shape_iou=1.0, grid_sensitivity=False, class_weights=True, anchors="kmeans",
)  # fmt: skip


@pytest.fixture(scope="module")
def switched(drawn_voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("switched") / "run"
    train(drawn_voc, dataclasses.replace(SWITCHED, output=output))
    return output


def test_a_detector_decodes_with_the_anchors_and_the_grid_that_it_was_trained_with(switched: Path) -> None:
    metadata = load(switched).metadata
    assert metadata.scale_xy == (1.0, 1.0, 1.0)
    report = json.loads((switched / "anchors.json").read_text())
    assert np.array_equal(metadata.anchors, report["kmeans"]["anchors"])
    assert report["kmeans"]["mean_iou"] > report["yolov4"]["mean_iou"]


def test_a_run_with_switches_goes_on_with_them(switched: Path, drawn_voc: Path) -> None:
    before = load(switched).metadata
    train(drawn_voc, dataclasses.replace(TrainSettings(), output=switched, resume=True))
    assert load(switched).metadata == before


def test_own_anchors_need_nine_different_sizes(drawn_voc: Path, tmp_path: Path) -> None:
    for file in (drawn_voc / "Annotations").iterdir():
        target = tmp_path / "data" / "Annotations" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        box = "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>40</xmax><ymax>40</ymax></bndbox>"
        target.write_text(f"<annotation><object><name>thing</name>{box}</object></annotation>")
    for name in ("JPEGImages", "ImageSets"):
        (tmp_path / "data" / name).symlink_to(drawn_voc / name)
    settings = dataclasses.replace(SWITCHED, output=tmp_path / "run")
    with pytest.raises(DataError, match="fewer than 9 different sizes"):
        train(tmp_path / "data", settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"box_loss": "iou"}, "box_loss is 'iou'; it must be one of ciou, diou, giou"),
        ({"anchors": "own"}, "anchors is 'own'; it must be one of yolov4, kmeans"),
        ({"shape_iou": 0.0}, "shape_iou is 0.0; it must be above 0 and at most 1"),
        ({"shape_iou": 1.5}, "shape_iou is 1.5; it must be above 0 and at most 1"),
    ],
)
def test_a_switch_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainSettings(**values)
