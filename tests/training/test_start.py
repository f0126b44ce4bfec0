"""What a run takes over from the detector that it starts from."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from pocketdet import cli
from pocketdet.core.metadata import YOLOV4_ANCHORS, YOLOV4_SCALE_XY, ModelMetadata
from pocketdet.datasets.load import load_dataset
from pocketdet.loading import find_weights
from pocketdet.models import build_from_metadata, load_detector, save_detector
from pocketdet.models.checkpoint import TorchBackend
from pocketdet.runtime.backends import open_backend
from pocketdet.training import TrainSettings, train
from pocketdet.training.start import choose_start, describe, letterboxed_pictures, load_start

OWN = (((5, 6), (7, 8), (9, 9)), ((10, 12), (14, 16), (18, 20)), ((22, 24), (26, 28), (30, 32)))
THEIRS = ModelMetadata(
    "mobilenet_v3_small",
    0.35,
    0.125,
    "symmetric",
    ("red thing", "blue thing"),
    (96, 96),
    anchors=OWN,
    scale_xy=(1.0, 1.0, 1.0),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    padding_colour=(128, 128, 128),
    se_before_activation=True,
)
SETTINGS = TrainSettings(model="mobilenet_v3_small", width=0.35, neck_width=0.125, size=64, epochs=1, bf16=False)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_detector(tmp_path / "start.safetensors", build_from_metadata(THEIRS), THEIRS)
    return tmp_path / "start.safetensors"


def describe_run(
    data: Path, start: Path | None, capsys: pytest.CaptureFixture[str], **changes: object
) -> tuple[ModelMetadata, str]:
    settings = dataclasses.replace(SETTINGS, start_weights=start, **changes)
    metadata = describe(data, load_dataset(data), settings, Console(stderr=True, width=200))
    return metadata, capsys.readouterr().err


def test_the_same_detector_hands_on_how_its_boxes_are_decoded(
    drawn_voc: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata, printed = describe_run(drawn_voc, start, capsys)
    assert (metadata.anchors, metadata.scale_xy, metadata.padding_colour) == (OWN, (1.0,) * 3, (128,) * 3)
    assert (metadata.mean, metadata.std, metadata.se_before_activation) == ((0.0,) * 3, (1.0,) * 3, True)
    assert (metadata.input_size, metadata.class_names) == ((64, 64), ("blue thing", "red thing"))
    assert "anchors: those of start.safetensors, a detector for 96 x 96 pixels" in printed


def test_what_is_asked_for_is_not_taken_over(drawn_voc: Path, start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata, printed = describe_run(drawn_voc, start, capsys, anchors="yolov4", grid_sensitivity=True)
    assert (metadata.anchors, metadata.scale_xy, printed) == (YOLOV4_ANCHORS, YOLOV4_SCALE_XY, "")


def test_of_another_neck_only_the_backbone_counts(
    drawn_voc: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata, printed = describe_run(drawn_voc, start, capsys, neck_width=0.25)
    assert (metadata.anchors, metadata.scale_xy, printed) == (YOLOV4_ANCHORS, YOLOV4_SCALE_XY, "")
    assert metadata.se_before_activation


def test_without_start_weights_all_is_yolov4s(drawn_voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata, _ = describe_run(drawn_voc, None, capsys)
    assert (metadata.anchors, metadata.scale_xy, metadata.se_before_activation) == (
        YOLOV4_ANCHORS,
        YOLOV4_SCALE_XY,
        False,
    )
    metadata, _ = describe_run(drawn_voc, None, capsys, grid_sensitivity=False)
    assert metadata.scale_xy == (1.0,) * 3


def test_an_imported_network_stays_what_it_is_through_a_training(drawn_voc: Path, start: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(
        SETTINGS, start_weights=start, learning_rate=1e-12, freeze_batch_norm=True, output=tmp_path / "tuned"
    )
    tuned, metadata = load_detector(train(drawn_voc, settings).best)
    assert (metadata.anchors, metadata.scale_xy, metadata.se_before_activation) == (OWN, (1.0,) * 3, True)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for ours, theirs in zip(tuned.backbone(images), load_detector(start)[0].backbone(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_an_exported_file_gets_its_batch_norms_back(drawn_voc: Path) -> None:
    """Export folds them away; the run makes them anew from its pictures, and the detector computes the same."""
    pytest.importorskip("onnx")
    exported = find_weights("animals-small")
    theirs = open_backend(exported, threads=1)
    training, console = load_dataset(drawn_voc), Console(quiet=True)
    settings = dataclasses.replace(SETTINGS, width=1.0, neck_width=0.25, size=320, start_weights=exported)
    detector, metadata = build_from_metadata(theirs.metadata), theirs.metadata
    load_start(detector, metadata, training, settings, console)

    pictures = letterboxed_pictures(training, metadata)
    two = pictures[:2].permute(0, 2, 3, 1).numpy()
    truth = theirs.run(two)
    for ours, level in zip(TorchBackend(detector, metadata).run(two), truth, strict=True):
        for name in ("boxes", "objectness", "classes"):
            np.testing.assert_allclose(getattr(ours, name), getattr(level, name), rtol=1e-3, atol=5e-3)
    # While it learns each batch norm divides by the statistics of its batch: of all the pictures these are its own.
    with torch.no_grad():
        learning = detector.train()(pictures.float() / 255)
    for level, ours in zip(truth, learning, strict=True):
        np.testing.assert_allclose(ours.objectness[:2], level.objectness, rtol=0.02, atol=0.1)


@pytest.mark.parametrize(
    ("changes", "file"),
    [
        ({}, "animals.onnx"),
        ({"neck_width": 1.0}, "animals.onnx"),
        ({"model": "mobilenet_v3_small", "neck_width": 0.25}, "animals-small.onnx"),
        ({"start_weights": Path("none")}, None),
        ({"start_weights": Path("animals-small")}, "animals-small.onnx"),
        ({"start_weights": Path("mine.safetensors")}, "mine.safetensors"),
        ({"width": 0.5}, None),
        ({"model": "mobilenet_v1"}, None),
        ({"padding": "same"}, None),
        ({"model": "mobilenet_v3_small", "neck_width": 0.25, "padding": "same"}, "animals-small.onnx"),
        ({"model": "mobilenet_v3_small", "neck_width": 0.25, "padding": "symmetric"}, None),
    ],
)
def test_a_run_starts_from_a_bundled_detector_where_one_has_its_backbone(
    changes: dict[str, object], file: str | None
) -> None:
    start = choose_start(dataclasses.replace(TrainSettings(), **changes)).start_weights  # type: ignore[arg-type]
    assert (start.name if start is not None else None) == file


def test_parts_of_another_width_are_counted_and_not_listed(
    drawn_voc: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    settings = TrainSettings(neck_width=0.25, size=64, epochs=1, output=tmp_path / "run")
    train(drawn_voc, settings)
    printed = capsys.readouterr().err
    assert "start weights: 362 tensors from animals.onnx" in printed
    assert "begin at random: neck.before_pooling.0.0.weight" in printed
    assert "and 253 more" in printed
    assert printed.count("neck.") < 5


def test_the_network_of_a_bundled_detector_starts_from_it(drawn_voc: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    arguments = ["--model", "mobilenet_v3_small", "--neck-width", "0.25"]
    run = ["--size", "64", "--epochs", "1", "--output", str(tmp_path / "run")]
    assert cli.main(["train", str(drawn_voc), *arguments, *run]) == 0
    bundled, _ = load_detector(find_weights("animals-small"))
    tuned, metadata = load_detector(tmp_path / "run" / "best.safetensors")
    assert metadata.class_names == ("blue thing", "red thing")
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for ours, theirs in zip(tuned.backbone(pixels), bundled.backbone(pixels), strict=True):
            assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.5
