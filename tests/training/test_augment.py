import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch

from pocketdet.training.augment import Plan, Planner, Source
from pocketdet.training.gpu import GpuPictures, stack_plans
from pocketdet.training.pictures import Sample
from pocketdet.training.render import change_colour, render
from pocketdet.training.settings import TrainSettings

GREY = (114, 114, 114)
SIZE = 160
PLAIN = TrainSettings(size=SIZE, epochs=10, mosaic=0.0, plain_epochs=0.0, flip=0.0)


def marked(height: int, width: int, colour: tuple[int, int, int], box: tuple[int, int, int, int]) -> Sample:
    """A black picture with one coloured box, which is its target."""
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = colour
    return Sample(image, np.array([box], np.float32), np.array([0]))


RED = marked(150, 200, (255, 0, 0), (60, 40, 150, 110))
EMPTY = Sample(np.zeros((90, 120, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def planner(samples: Sequence[Sample], settings: TrainSettings) -> Planner:
    def look(number: int) -> Source:
        return Source(*samples[number].image.shape[:2], samples[number].boxes, samples[number].class_ids)

    return Planner(settings, len(samples), look)


def draw(samples: Sequence[Sample], plan: Plan) -> np.ndarray:
    return render(plan._replace(colour=(1, 1, 1)), lambda number: samples[number].image, SIZE, GREY)


def bounds(image: np.ndarray, channel: int) -> np.ndarray:
    others = [c for c in range(3) if c != channel]
    rows, columns = np.nonzero((image[..., channel] > 128) & (image[..., others].max(axis=2) < 100))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("epoch", range(8))
@pytest.mark.parametrize(("flip", "turn"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_a_box_stays_on_its_object_when_the_picture_is_moved(epoch: int, flip: float, turn: float) -> None:
    plan = planner([RED], dataclasses.replace(PLAIN, flip=flip, turn=turn)).draw(epoch, 0)
    assert plan.flips == bool(flip)
    assert bool(plan.turns) == bool(turn)
    assert np.abs(plan.boxes[0] - bounds(draw([RED], plan), 0)).max() <= 1


@pytest.mark.parametrize("name", ["mosaic", "cutmix", "copy_paste"])
@pytest.mark.parametrize("epoch", range(8))
def test_boxes_stay_on_their_objects_in_scenes_of_several_pictures(name: str, epoch: int) -> None:
    samples = [RED, EMPTY, EMPTY]
    for number in range(3):
        plan = planner(samples, dataclasses.replace(PLAIN, **{name: 1.0})).draw(epoch, number)
        times_red = sum(patch.number == 0 for patch in plan.layers[0])
        if len(plan.boxes) == times_red == 1 and name != "cutmix":
            assert np.abs(plan.boxes[0] - bounds(draw(samples, plan), 0)).max() <= 1
        image = draw(samples, plan)
        for left, top, right, bottom in plan.boxes.astype(int):
            inner = image[top + 1 : bottom - 1, left + 1 : right - 1]
            assert (inner[..., 0] > 128).mean() > 0.2


def test_each_switch_adds_its_patches_and_the_last_epochs_are_plain() -> None:
    samples = [RED] * 5
    counts = {}
    for name in ("mosaic", "cutmix", "copy_paste", "mixup"):
        drawn = planner(samples, dataclasses.replace(PLAIN, plain_epochs=0.3, **{name: 1.0}))
        plans = {epoch: [drawn.draw(epoch, number) for number in range(5)] for epoch in (6, 7)}
        counts[name] = max(sum(len(layer) for layer in plan.layers) for plan in plans[6])
        assert all(len(plan.layers) == 1 and len(plan.layers[0]) == 1 for plan in plans[7])
    assert counts["mosaic"] == 4
    assert counts["cutmix"] == 2
    assert counts["mixup"] == 2
    assert 2 <= counts["copy_paste"] <= 4


def test_mixup_blends_two_pictures_and_keeps_the_targets_of_both() -> None:
    green = marked(150, 200, (0, 255, 0), (0, 0, 200, 150))
    samples = [RED, green]
    plans = [planner(samples, dataclasses.replace(PLAIN, mixup=1.0)).draw(epoch, 0) for epoch in range(6)]
    blended = [plan for plan in plans if plan.layers[1][0].number == 1]
    assert blended
    image = draw(samples, blended[0])
    share = image[..., 0].max() / 255
    assert share == pytest.approx(blended[0].blend, abs=0.02)
    assert len(blended[0].boxes) == 2


def test_a_pasted_object_hides_little_of_the_others() -> None:
    samples = [RED] * 4
    for epoch in range(10):
        plan = planner(samples, dataclasses.replace(PLAIN, copy_paste=1.0)).draw(epoch, 0)
        first, rest = plan.boxes[0], plan.boxes[1:]
        for box in rest:
            shared = np.clip(np.minimum(first[2:], box[2:]) - np.maximum(first[:2], box[:2]), 0, None).prod()
            assert shared <= 0.25 * (first[2:] - first[:2]).prod()


def test_a_box_that_is_cut_to_a_sliver_is_no_target() -> None:
    whole = Sample(np.zeros((100, 100, 3), np.uint8), np.array([[0, 0, 100, 100]], np.float32), np.array([0]))
    drawn = planner([whole] * 4, dataclasses.replace(PLAIN, size=64, mosaic=1.0, epochs=40))
    kept = [len(drawn.draw(epoch, 0).boxes) for epoch in range(40)]
    assert min(kept) < 4
    assert max(kept) == 4


def test_colour_changes_grey_only_in_brightness() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    changed = change_colour(grey, (1.01, 1.3, 0.8))
    assert (changed == changed[..., :1]).all()
    assert (changed == 80).all()


def test_torch_draws_the_plans_that_opencv_draws(drawn_pictures: Sequence[Sample]) -> None:
    settings = dataclasses.replace(PLAIN, mosaic=0.5, mixup=0.3, cutmix=0.3, copy_paste=0.3, flip=0.5, turn=0.75)
    drawn = planner(drawn_pictures, settings)
    plans = [drawn.draw(epoch, number) for epoch in range(4) for number in range(len(drawn_pictures))]
    gpu = on_this_device(drawn_pictures)
    theirs = (gpu.render(stack_plans(plans)) * 255).numpy()
    assert theirs.shape == (len(plans), 3, SIZE, SIZE)
    assert {plan.turns for plan in plans} == {0, 1, 2, 3}
    for plan, image in zip(plans, theirs, strict=True):
        ours = render(plan, lambda number: drawn_pictures[number].image, SIZE, GREY).transpose(2, 0, 1)
        assert np.abs(ours - image).mean() < 2  # OpenCV rounds hue to 2 degrees, and positions to 1/32 of a pixel
        assert np.quantile(np.abs(ours - image), 0.99) < 12


@pytest.fixture
def drawn_pictures() -> list[Sample]:
    """Smooth pictures of several shapes, so that rounding moves nothing far."""
    rng = np.random.default_rng(0)
    pictures = []
    for height, width in ((150, 200), (200, 120), (90, 90), (180, 200)):
        coarse = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
        image = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
        pictures.append(Sample(image, np.array([[20, 20, 70, 60]], np.float32), np.array([1])))
    return pictures


def on_this_device(samples: Sequence[Sample]) -> GpuPictures:
    """``GpuPictures`` of pictures that are in no file."""
    gpu = GpuPictures([], SIZE, GREY, torch.device("cpu"))
    gpu.packed = torch.zeros(len(samples), gpu.side, gpu.side, dtype=torch.int32)
    for number, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        words = np.pad(sample.image, ((0, 0), (0, 0), (0, 1))).view(np.int32)[..., 0]
        gpu.packed[number, :height, :width] = torch.from_numpy(words)
    gpu.extents = torch.tensor([sample.image.shape[:2] for sample in samples])
    return gpu
