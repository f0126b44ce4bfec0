"""The switches of YOLOv4's bag within a whole run."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pocketdet.errors import SettingsError
from pocketdet.models.checkpoint import load_detector
from pocketdet.training import TrainSettings, run, train
from pocketdet.training.assigner import Targets
from pocketdet.training.chance import input_size, is_attacked, possible_sizes, resize
from pocketdet.training.optimizer import learning_rate

SMALL = TrainSettings(
    model="mobilenet_v3_small",
    width=0.35,
    neck_width=0.125,
    size=64,
    epochs=2,
    batch_size=4,
    evaluate_every=2,
    checkpoint_minutes=0.0,
    bf16=False,
)
ALL = dataclasses.replace(
    SMALL,
    batch_size=2,
    accumulate=2,
    neck_activation="mish",
    dropblock=0.1,
    cross_batch_norm=True,
    self_adversarial=0.5,
    multi_scale=0.5,
    schedule="constant",
)


def final_state(output: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(output / "last.pt", weights_only=True)
    return {f"{part}.{name}": value for part in ("detector", "average") for name, value in saved[part].items()}


class Killed(BaseException):
    pass


def test_a_run_with_all_switches_that_is_cut_off_resumes_bit_for_bit(
    drawn_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(drawn_voc, dataclasses.replace(ALL, output=tmp_path / "unbroken"))
    seed_batch = run.seed_batch

    def kill(seed: int, epoch: int, batch: int) -> None:
        if (epoch, batch) == (1, 3):
            raise Killed
        seed_batch(seed, epoch, batch)

    monkeypatch.setattr(run, "seed_batch", kill)
    with pytest.raises(Killed):
        train(drawn_voc, dataclasses.replace(ALL, output=tmp_path / "broken"))
    monkeypatch.undo()
    train(drawn_voc, TrainSettings(output=tmp_path / "broken", resume=True))
    expected, found = final_state(tmp_path / "unbroken"), final_state(tmp_path / "broken")
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]
    assert load_detector(tmp_path / "broken/best.safetensors")[1].neck_activation == "mish"


def test_every_switch_changes_what_is_learned(drawn_voc: Path, tmp_path: Path) -> None:
    """And bfloat16 bears them all."""
    plain = dataclasses.replace(SMALL, epochs=1, batch_size=2, accumulate=2, bf16=True)
    switches: dict[str, dict[str, object]] = {
        "plain": {},
        "dropblock": {"dropblock": 0.5},
        "cross_batch_norm": {"cross_batch_norm": True},
        "self_adversarial": {"self_adversarial": 1.0},
        "multi_scale": {"multi_scale": 0.5, "seed": 0},
        "neck_activation": {"neck_activation": "mish"},
    }
    states = {}
    for name, switch in switches.items():
        train(drawn_voc, dataclasses.replace(plain, **switch, output=tmp_path / name))  # type: ignore[arg-type]
        states[name] = final_state(tmp_path / name)["detector.neck.down_p3.0.0.weight"]
    assert all(torch.isfinite(state).all() for state in states.values())
    assert not [name for name in states if name != "plain" and torch.equal(states[name], states["plain"])]


def test_input_sizes_are_multiples_of_32_and_last_for_ten_steps() -> None:
    settings = TrainSettings(size=320, multi_scale=0.25, seed=3)
    assert possible_sizes(settings) == [256, 288, 320, 352, 384]
    assert possible_sizes(TrainSettings(size=96, multi_scale=0.9)) == [64, 96, 128, 160]
    sizes = [input_size(settings, step) for step in range(500)]
    assert all(len(set(sizes[start : start + 10])) == 1 for start in range(0, 500, 10))
    assert set(sizes) == {256, 288, 320, 352, 384}
    assert sizes == [input_size(settings, step) for step in range(500)]
    assert sizes != [input_size(dataclasses.replace(settings, seed=4), step) for step in range(500)]
    assert input_size(TrainSettings(size=320), 7) == 320


@pytest.mark.parametrize("size", [64, 96, 128])
def test_a_resized_batch_has_its_boxes_where_its_objects_are(size: int) -> None:
    images = torch.zeros(2, 3, 96, 96)
    images[1, :, 24:48, 48:96] = 1
    targets = Targets(torch.tensor([[48.0, 24, 96, 48]]), torch.tensor([0]), torch.tensor([1]))
    resized, moved = resize(images.to(memory_format=torch.channels_last), targets, size)
    assert resized.shape == (2, 3, size, size)
    assert resized.is_contiguous(memory_format=torch.channels_last)
    rows, columns = (resized[1, 0] > 0.5).nonzero(as_tuple=True)
    found = [int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    assert found == pytest.approx(moved.boxes[0].tolist(), abs=1)
    assert torch.equal(moved.pictures, targets.pictures)


def test_about_the_wanted_share_of_batches_is_attacked() -> None:
    settings = TrainSettings(self_adversarial=0.3)
    attacked = [is_attacked(settings, epoch, batch) for epoch in range(20) for batch in range(50)]
    assert sum(attacked) == pytest.approx(300, abs=45)
    assert not is_attacked(TrainSettings(), 0, 0)


def test_the_constant_schedule_stays_after_the_warmup() -> None:
    settings = TrainSettings(schedule="constant", epochs=4, warmup_epochs=1, learning_rate=0.01)
    rates = [learning_rate(step, 10, settings) for step in range(40)]
    assert rates[:10] == pytest.approx([0.001 * n for n in range(1, 11)])
    assert set(rates[10:]) == {0.01}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dropblock": 1.0}, r"dropblock is 1\.0; it must be at least 0 and below 1"),
        ({"multi_scale": -0.1}, r"multi_scale is -0\.1"),
        ({"self_adversarial": 2.0}, r"self_adversarial is 2\.0; it must be between 0 and 1"),
        ({"schedule": "step"}, 'schedule is "step"; it must be one of cosine, constant'),
        ({"cross_batch_norm": True, "sync_batch_norm": True}, "choose one of them"),
    ],
)
def test_switches_out_of_range_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainSettings(**wrong)  # type: ignore[arg-type]


def test_a_thawed_backbone_learns_gently_with_its_statistics_fixed_and_the_warmup_does_not_restart(
    drawn_voc: Path, tmp_path: Path
) -> None:
    states, rates = [], []
    for epochs in (1, 3):
        output = tmp_path / str(epochs)
        settings = dataclasses.replace(SMALL, epochs=epochs, schedule="constant", warmup_epochs=1, output=output)
        gentle = dataclasses.replace(
            settings, freeze_epochs=1, backbone_learning_rate=0.05, freeze_batch_norm=True, learning_rate=1e-3
        )
        train(drawn_voc, gentle)
        saved = torch.load(output / "last.pt", weights_only=True)
        states.append(saved["detector"])
        rates.append([group["lr"] for group in saved["optimizer"]["param_groups"]])
    frozen, thawed = states
    assert rates[1] == pytest.approx([1e-3, 1e-3, 5e-5, 5e-5]), "neck and head, then the backbone"
    moved = {name: (thawed[name] - frozen[name]).abs().max().item() for name in frozen if "num_batches" not in name}
    backbone = {name: distance for name, distance in moved.items() if name.startswith("backbone.")}
    assert not [name for name, distance in backbone.items() if "running" in name and distance]
    weights = [distance for name, distance in backbone.items() if name.endswith("0.weight")]
    assert all(0 < distance < 6 * 2 * 5e-5 for distance in weights), "six steps of AdamW, each of about the rate"
    assert max(distance for name, distance in moved.items() if name.startswith("neck.")) > 1e-3


def test_start_weights_with_another_activation_in_the_neck_are_pointed_out(
    drawn_voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = dataclasses.replace(SMALL, epochs=1, neck_activation="mish", output=tmp_path / "first")
    start = train(drawn_voc, first).best
    train(drawn_voc, dataclasses.replace(first, start_weights=start, output=tmp_path / "same"))
    assert "trained with mish" not in capsys.readouterr().err
    plain = dataclasses.replace(SMALL, epochs=1, start_weights=start, output=tmp_path / "other")
    train(drawn_voc, plain)
    assert "trained with mish, this one has relu6: choose --neck-activation mish" in capsys.readouterr().err
