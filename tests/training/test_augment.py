import numpy as np
import pytest

from pocketdet.training.augment import Sample, change_colour, flip, mosaic, place_one

GREY = (114, 114, 114)


def marked(height: int, width: int, colour: tuple[int, int, int], box: tuple[int, int, int, int]) -> Sample:
    """A black picture with one coloured box, which is its target."""
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = colour
    return Sample(image, np.array([box], np.float32), np.array([0]))


def bounds(image: np.ndarray, channel: int) -> np.ndarray:
    others = [c for c in range(3) if c != channel]
    rows, columns = np.nonzero((image[..., channel] > 128) & (image[..., others].max(axis=2) < 100))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("seed", range(12))
def test_a_box_stays_on_its_object_when_the_picture_is_moved(seed: int) -> None:
    sample = marked(150, 200, (255, 0, 0), (60, 40, 150, 110))
    placed = place_one(sample, 160, GREY, np.random.default_rng(seed))
    assert placed.image.shape == (160, 160, 3)
    assert np.abs(placed.boxes[0] - bounds(placed.image, 0)).max() <= 1


@pytest.mark.parametrize("seed", range(12))
def test_boxes_of_a_mosaic_stay_on_their_objects(seed: int) -> None:
    samples = [marked(150, 200, (255, 0, 0), (20, 20, 180, 130))]
    samples += [Sample(np.zeros((90, 120, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))] * 3
    result = mosaic(samples, 160, GREY, np.random.default_rng(seed))
    assert len(result.boxes) <= 1
    if len(result.boxes):
        assert np.abs(result.boxes[0] - bounds(result.image, 0)).max() <= 1


def test_flip_mirrors_picture_and_boxes() -> None:
    flipped = flip(marked(50, 80, (0, 255, 0), (10, 5, 30, 25)))
    np.testing.assert_array_equal(flipped.boxes, [[50, 5, 70, 25]])
    np.testing.assert_array_equal(bounds(flipped.image, 1), [50, 5, 70, 25])


def test_a_box_that_is_cut_to_a_sliver_is_no_target() -> None:
    sample = Sample(np.zeros((100, 100, 3), np.uint8), np.array([[0, 0, 100, 100]], np.float32), np.array([0]))
    kept = [len(mosaic([sample] * 4, 64, GREY, np.random.default_rng(seed)).boxes) for seed in range(40)]
    assert min(kept) < 4
    assert max(kept) == 4


def test_colour_changes_grey_only_in_brightness() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    changed = change_colour(grey, np.random.default_rng(0))
    assert (changed == changed[..., :1]).all()
    assert (changed != grey).any()
