import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pocketdet import cli
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ExportError, ModelFileError, SettingsError
from pocketdet.models import build_from_metadata, load_detector, save_detector
from pocketdet.models.channels import convolution_of, find_places, norm_of
from pocketdet.models.detector import Detector
from pocketdet.models.drop_dead import drop_constant_channels, drop_dead
from pocketdet.training.settings import TrainSettings

NAMES = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small")


def describe(name: str) -> ModelMetadata:
    return ModelMetadata(name, 0.35, 0.125, "same", ("cat", "dog"), (64, 64), training_data="none")


@torch.no_grad()
def injured(name: str) -> tuple[Detector, int]:
    """A detector with batch norms that have seen noise and killed kernels; how many can be dropped at least."""
    torch.manual_seed(0)
    detector = build_from_metadata(describe(name)).train()
    for _ in range(5):
        detector(torch.rand(2, 3, 64, 64))
    droppable = 0
    for place in find_places(detector):
        layer, norm = convolution_of(place.depthwise), norm_of(place.depthwise)
        norm.bias.uniform_(-1, 1)
        layer.weight[1] = 0
        norm.weight[3] = 0
        if place.excite is None:
            droppable += 2
        else:  # one that stays, for its constant passes a gate, and one that goes, for it is zero
            norm.bias[1], norm.bias[3] = 1.0, -4.0
            droppable += 1
    detector.train()
    for _ in range(5):
        detector(torch.rand(2, 3, 64, 64))
    return detector.eval(), droppable


@pytest.fixture(params=NAMES)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    detector, droppable = injured(request.param)
    save_detector(tmp_path / "whole.safetensors", detector, describe(request.param))
    (tmp_path / "droppable").write_text(str(droppable))
    return tmp_path / "whole.safetensors"


def test_the_small_detector_computes_the_same_with_fewer_parameters(checkpoint: Path) -> None:
    path = checkpoint.with_name("small.safetensors")
    report = drop_dead(checkpoint, path)
    assert sum(report.dropped.values()) >= int(checkpoint.with_name("droppable").read_text())
    assert report.max_output_difference < 1e-5
    for before, after in (report.parameters, report.multiply_adds, report.file_bytes):
        assert after < before
    (whole, metadata), (small, small_metadata) = load_detector(checkpoint), load_detector(path)
    assert small_metadata == dataclasses.replace(metadata, channels=small_metadata.channels)
    assert set(small_metadata.channels) == set(report.dropped)
    assert sum(parameter.numel() for parameter in small.parameters()) == report.parameters[1]
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        for ours, theirs in zip(whole(images), small(images), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpoint", ["mobilenet_v2"], indirect=True)
def test_dropping_twice_finds_nothing_more(checkpoint: Path, tmp_path: Path) -> None:
    drop_dead(checkpoint, tmp_path / "small.safetensors")
    again = drop_dead(tmp_path / "small.safetensors", tmp_path / "again.safetensors")
    assert again.dropped == {}
    assert load_detector(tmp_path / "again.safetensors")[1] == load_detector(tmp_path / "small.safetensors")[1]


@torch.no_grad()
def test_a_bias_that_closes_relu6_for_good_is_dropped(tmp_path: Path) -> None:
    """Provable where the input is between 0 and 6, by the sum of the weights alone."""
    detector, _ = injured("mobilenet_v2")
    places = {place.name: place for place in find_places(detector)}
    place = places["backbone.features.4.conv.1.0"]
    norm_of(place.depthwise).bias[5] = -1000
    save_detector(tmp_path / "a.safetensors", detector, describe("mobilenet_v2"))
    report = drop_dead(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert report.dropped[place.name] == 3
    assert report.max_output_difference < 1e-5


def test_channels_that_others_read_too_are_no_place() -> None:
    names = {place.name for place in find_places(build_from_metadata(describe("mobilenet_v1")))}
    assert "backbone.features.3.0.0" in names
    assert "backbone.features.6.0.0" not in names, "P3 goes to the neck, too"
    assert "neck.down_p3.0.0" not in names, "the head reads it, too"
    names = {place.name for place in find_places(build_from_metadata(describe("mobilenet_v3_large")))}
    assert "backbone.features.1.block.0.0" not in names, "the shortcut reads it, too"


@torch.no_grad()
def test_a_layer_that_is_dead_as_a_whole_keeps_two_channels(tmp_path: Path) -> None:
    detector, _ = injured("mobilenet_v1")
    convolution_of(find_places(detector)[2].depthwise).weight.zero_()
    save_detector(tmp_path / "a.safetensors", detector, describe("mobilenet_v1"))
    report = drop_dead(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert load_detector(tmp_path / "b.safetensors")[1].channels[find_places(detector)[2].name] == 2
    assert report.max_output_difference < 1e-5


def test_nothing_is_written_where_an_output_would_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, _ = injured("mobilenet_v2")
    save_detector(tmp_path / "a.safetensors", detector, describe("mobilenet_v2"))
    monkeypatch.setattr("pocketdet.models.drop_dead.CONSTANT_BELOW", 1.0, raising=True)
    monkeypatch.setattr("pocketdet.models.drop_dead.MAX_OUTPUT_DIFFERENCE", 1e-30)
    with pytest.raises(ExportError, match=r"a raw output is off by .*nothing was written"):
        drop_dead(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("output", ["a.safetensors", "b.onnx"])
def test_an_output_that_is_the_checkpoint_or_of_another_kind_is_refused(tmp_path: Path, output: str) -> None:
    detector, _ = injured("mobilenet_v2")
    save_detector(tmp_path / "a.safetensors", detector, describe("mobilenet_v2"))
    with pytest.raises(SettingsError, match="another file that ends in "):
        drop_dead(tmp_path / "a.safetensors", tmp_path / output)


@pytest.mark.parametrize("channels", [{"backbone.features.3.0.0": 10000}, {"backbone.features.99": 8}])
def test_channels_of_another_network_are_refused(tmp_path: Path, channels: dict[str, int]) -> None:
    detector, _ = injured("mobilenet_v1")
    save_detector(
        tmp_path / "a.safetensors", detector, dataclasses.replace(describe("mobilenet_v1"), channels=channels)
    )
    with pytest.raises(ModelFileError, match=r"two networks: .*channels"):
        load_detector(tmp_path / "a.safetensors")


@pytest.mark.parametrize("checkpoint", ["mobilenet_v3_small"], indirect=True)  # V1 and V2 pass, too; it is slow
def test_the_command_drops_and_the_export_passes_its_gate(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(noise).save(tmp_path / "pictures/noise.png")
    small = tmp_path / "small.safetensors"
    arguments = ["explain", str(checkpoint), "--data", str(tmp_path / "pictures"), "--drop-dead", str(small)]
    assert cli.main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["dropped"]["compared"] == 3
    assert sum(layer["weights"] for layer in document["kernel_health"]) >= len(document["dropped"]["dropped"])
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "channels dropped" in text
    assert "largest difference of a raw output" in text
    assert cli.main(["export", str(small), "--output", str(tmp_path / "small.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gate"]["max_score_difference"] < 1e-4


@torch.no_grad()
def test_behind_squeeze_and_excitation_only_zeros_are_dropped(tmp_path: Path) -> None:
    """Any other constant is multiplied by a gate that looks at the picture."""
    torch.manual_seed(0)
    detector = build_from_metadata(describe("mobilenet_v3_small"))
    place = next(place for place in find_places(detector) if place.excite is not None and "5.block" in place.name)
    convolution_of(place.depthwise).weight[:3] = 0
    norm_of(place.depthwise).bias[:3] = torch.tensor([-4.0, 1.0, 0.0])  # h-swish: 0, 0.67, 0
    assert drop_constant_channels(detector) == {place.name: 2}


def test_a_name_has_no_kernels_to_drop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "mobilenet_v2", "--drop-dead", str(tmp_path / "b.safetensors")]) == 2
    assert "need a checkpoint" in capsys.readouterr().err


def test_a_training_begins_with_a_dropped_detector_as_start_weights(tmp_path: Path) -> None:
    from pocketdet.datasets.records import Dataset
    from pocketdet.models import load_start_weights
    from pocketdet.training.start import describe as describe_run

    detector, _ = injured("mobilenet_v1")
    save_detector(tmp_path / "a.safetensors", detector, describe("mobilenet_v1"))
    report = drop_dead(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    settings = TrainSettings(
        model="mobilenet_v1", width=0.35, neck_width=0.125, size=64, start_weights=tmp_path / "b.safetensors"
    )
    metadata = describe_run(tmp_path, Dataset((), ("emu",)), settings, Console(quiet=True))
    assert set(metadata.channels) == set(report.dropped)
    loaded = load_start_weights(build_from_metadata(metadata), tmp_path / "b.safetensors")
    assert {name.partition(".")[0] for name in loaded.mismatched} == {"head"}, "other classes"
    assert not loaded.missing
    metadata = describe_run(
        tmp_path, Dataset((), ("emu",)), dataclasses.replace(settings, neck_width=0.25), Console(quiet=True)
    )
    assert {name.partition(".")[0] for name in metadata.channels} == {"backbone"}
    metadata = describe_run(
        tmp_path, Dataset((), ("emu",)), dataclasses.replace(settings, width=0.5), Console(quiet=True)
    )
    assert {name.partition(".")[0] for name in metadata.channels} == {"neck"}
