import dataclasses
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import SettingsError
from pocketdet.models.detector import build_from_metadata
from pocketdet.training import TrainSettings, batch_size, train
from pocketdet.training.batch_size import available_memory, choose_batch_size
from pocketdet.training.loss import DetectionLoss
from pocketdet.training.optimizer import learning_rate

METADATA = ModelMetadata("mobilenet_v3_small", 0.35, 0.125, "symmetric", ("a", "b"), (64, 64))
SMALL = TrainSettings(model="mobilenet_v3_small", width=0.35, neck_width=0.125, size=64, epochs=1, bf16=False)
MEBIBYTE = 2**20


def chosen(monkeypatch: pytest.MonkeyPatch, memory: int, size: int = 64, precision: str = "32-true") -> int:
    monkeypatch.setattr(batch_size, "available_memory", lambda: memory)
    detector = build_from_metadata(METADATA)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    return choose_batch_size(detector, DetectionLoss(METADATA), fabric, size, objects=5)


def test_the_batch_is_the_largest_power_of_two_that_fits_a_small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [chosen(monkeypatch, memory * MEBIBYTE) for memory in (1, 64, 128, 256, 100_000)]
    assert sizes[0] == 1
    assert sizes[-1] == 64
    assert 1 < sizes[1] < 64
    assert [2 * sizes[1], 4 * sizes[1]] == sizes[2:4]
    assert all(size & (size - 1) == 0 for size in sizes)


def test_four_times_the_pixels_need_four_times_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, 128 * MEBIBYTE, 128) * 4 == chosen(monkeypatch, 128 * MEBIBYTE, 64)


def test_bfloat16_has_room_for_more_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    memories = [memory * MEBIBYTE for memory in (40, 50, 60, 70)]
    floats = [chosen(monkeypatch, memory) for memory in memories]
    halves = [chosen(monkeypatch, memory, precision="bf16-mixed") for memory in memories]
    assert sum(halves) > sum(floats)


def test_the_measurement_leaves_the_detector_as_it_was() -> None:
    detector = build_from_metadata(METADATA)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    choose_batch_size(detector, DetectionLoss(METADATA), Fabric(accelerator="cpu", devices=1), 64, objects=3)
    torch.testing.assert_close(detector.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_a_gpu_that_is_full_tries_half_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def work(batch: int) -> None:
        if batch > 20:
            raise torch.OutOfMemoryError

    assert batch_size._largest(lambda batch: batch_size._fits_gpu(lambda: work(batch))) == 16


def test_there_is_memory_here() -> None:
    assert available_memory() > MEBIBYTE


def test_the_chosen_numbers_are_printed_stored_and_kept_by_a_resumed_run(
    drawn_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batch_size, "available_memory", lambda: 16 * MEBIBYTE)
    train(drawn_voc, dataclasses.replace(SMALL, batch_size=0, epochs=1, output=tmp_path / "run"))
    found = torch.load(tmp_path / "run/last.pt", weights_only=True)["settings"]
    assert '"batch_size": 4,' in found
    assert '"learning_rate": 0.0015,' in found
    messages = capsys.readouterr().err
    assert "batch size 4, by the memory of the cpu" in messages
    assert "learning rate 0.0015, by 4 pictures a step" in messages
    monkeypatch.setattr(batch_size, "available_memory", lambda: 0)
    train(drawn_voc, TrainSettings(output=tmp_path / "run", resume=True))
    assert "batch size" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        (TrainSettings(), 3e-3),
        (TrainSettings(batch_size=64), 6e-3),
        (TrainSettings(batch_size=16, accumulate=4), 6e-3),
        (TrainSettings(batch_size=4), 1.5e-3),
        (TrainSettings(optimizer="sgd"), 0.01),
        (TrainSettings(optimizer="sgd", batch_size=64), 0.04),
        (TrainSettings(optimizer="sgd", batch_size=8), 0.005),
        (TrainSettings(batch_size=64, learning_rate=1e-4), 1e-4),
    ],
)
def test_the_learning_rate_follows_the_pictures_of_a_step(settings: TrainSettings, rate: float) -> None:
    assert settings.peak_learning_rate == pytest.approx(rate)
    assert learning_rate(0, 1, dataclasses.replace(settings, warmup_epochs=0)) == pytest.approx(rate)


def test_a_batch_below_0_is_refused() -> None:
    with pytest.raises(SettingsError, match="batch_size is -1; it must be at least 0"):
        TrainSettings(batch_size=-1)
