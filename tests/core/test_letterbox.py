import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pocketdet.core.letterbox import Letterbox
from pocketdet.loading import ASSETS

GREY = (114, 114, 114)
sides = st.integers(1, 3000)
inputs = st.integers(2, 20).map(lambda n: 32 * n)


@pytest.mark.parametrize(
    ("image", "resized", "offset"),
    [
        ((375, 500), (312, 416), (52, 0)),  # 416 / 500 = 0.832; 0.832 * 375 = 312
        ((500, 375), (416, 312), (0, 52)),
        ((416, 416), (416, 416), (0, 0)),
        ((100, 200), (208, 416), (104, 0)),  # smaller pictures grow
        ((1080, 1920), (234, 416), (91, 0)),
        ((427, 640), (278, 416), (69, 0)),  # 277.55 rounds up
        ((1, 3000), (1, 416), (207, 0)),  # a line keeps a pixel
    ],
)
def test_places_worked_by_hand(image, resized, offset):
    letterbox = Letterbox(image, (416, 416))
    assert letterbox.resized == resized
    assert letterbox.offset == offset


def test_boxes_worked_by_hand():
    letterbox = Letterbox((375, 500), (416, 416))
    boxes = np.array([[0, 0, 500, 375], [100, 50, 200, 250]], np.float32)
    expected = [[0, 52, 416, 364], [83.2, 93.6, 166.4, 260]]
    np.testing.assert_allclose(letterbox.to_input(boxes), expected, rtol=1e-6)


def test_a_stretched_picture_fills_the_input():
    letterbox = Letterbox((100, 200), (64, 96), stretch=True)
    assert (letterbox.resized, letterbox.offset) == ((64, 96), (0, 0))
    boxes = np.array([[50, 25, 100, 100]], np.float32)
    np.testing.assert_allclose(letterbox.to_input(boxes), [[24, 16, 48, 64]])
    np.testing.assert_allclose(letterbox.to_image(letterbox.to_input(boxes)), boxes)
    pixels = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    resized = Image.fromarray(pixels).resize((96, 64), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(letterbox.apply(pixels, GREY), np.asarray(resized))


@given(sides, sides, inputs, inputs)
def test_the_picture_fills_one_side_and_overflows_none(height, width, input_height, input_width):
    letterbox = Letterbox((height, width), (input_height, input_width))
    resized, offset = letterbox.resized, letterbox.offset
    assert resized[0] == input_height or resized[1] == input_width
    for side, start, limit in zip(resized, offset, (input_height, input_width), strict=True):
        assert side >= 1
        assert start >= 0
        assert start + side <= limit
        assert abs((limit - side) - 2 * start) <= 1  # bars of equal breadth, but for an odd pixel


@given(sides, sides, inputs, inputs, st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
def test_boxes_of_the_picture_come_back(height, width, input_height, input_width, relative):
    letterbox = Letterbox((height, width), (input_height, input_width))
    x0, x1, y0, y1 = *sorted(relative[:2]), *sorted(relative[2:])
    boxes = np.array([[x0 * width, y0 * height, x1 * width, y1 * height]], np.float32)
    back = letterbox.to_image(letterbox.to_input(boxes))
    assert back.dtype == np.float32
    # float32 has 24 bits; input pixels are as much coarser as the picture is larger.
    np.testing.assert_allclose(back, boxes, atol=1e-3 * max(1, height / 416, width / 416))


def test_boxes_in_the_bars_are_clipped_to_the_picture():
    letterbox = Letterbox((375, 500), (416, 416))
    boxes = np.array([[-10, 0, 500, 416]], np.float32)
    np.testing.assert_allclose(letterbox.to_image(boxes), [[0, 0, 500, 375]])


def test_no_boxes_stay_no_boxes():
    letterbox, none = Letterbox((10, 20), (64, 64)), np.zeros((0, 4), np.float32)
    assert letterbox.to_input(none).shape == letterbox.to_image(none).shape == (0, 4)


def test_bars_have_the_colour_and_the_picture_lies_between_them():
    image = np.full((50, 100, 3), (200, 10, 60), np.uint8)
    letterbox = Letterbox((50, 100), (64, 64))
    canvas = letterbox.apply(image, (1, 2, 3))
    assert canvas.shape == (64, 64, 3)
    assert (canvas[:16] == (1, 2, 3)).all()
    assert (canvas[48:] == (1, 2, 3)).all()
    assert (canvas[16:48] == (200, 10, 60)).all()


def test_a_picture_that_fits_is_copied_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    canvas = Letterbox((32, 64), (64, 64)).apply(image, GREY)
    np.testing.assert_array_equal(canvas[16:48], image)


def test_a_reduced_decode_lies_where_the_full_picture_lies():
    row, column = np.mgrid[:400, :800]
    full = np.stack((row * 255 // 400, column * 255 // 800, (row + column) // 5), axis=2).astype(np.uint8)
    letterbox = Letterbox((400, 800), (64, 64))
    whole, reduced = letterbox.apply(full, GREY), letterbox.apply(np.ascontiguousarray(full[::2, ::2]), GREY)
    assert np.abs(whole.astype(int) - reduced.astype(int)).max() <= 2


@pytest.mark.parametrize("size", [(45, 90), (32, 64), (300, 600)])
def test_pillows_picture_and_the_array_of_it_lie_alike(size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    letterbox = Letterbox(size, (64, 64))
    np.testing.assert_array_equal(letterbox.apply(Image.fromarray(image), GREY), letterbox.apply(image, GREY))


@given(st.integers(0, 30), st.integers(0, 60))
def test_pixels_and_boxes_move_alike(row, column):
    image = np.zeros((40, 80, 3), np.uint8)
    image[row : row + 8, column : column + 16] = 255
    letterbox = Letterbox((40, 80), (160, 160))
    lit = letterbox.apply(image, (0, 0, 0))[:, :, 0] > 127
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    box = letterbox.to_input(np.array([[column, row, column + 16, row + 8]], np.float32))[0]
    np.testing.assert_allclose(seen, box, atol=1)


def test_a_large_picture_looks_as_if_it_were_resized_at_once():
    with Image.open(ASSETS / "chelsea.jpg") as photo:
        large = photo.convert("RGB").resize((1804, 1200), Image.Resampling.BICUBIC)
    at_once = np.asarray(large.resize((320, 213), Image.Resampling.BILINEAR)).astype(int)
    ours = Letterbox((1200, 1804), (320, 320)).apply(large, GREY, margin=1.5)[53 : 53 + 213].astype(int)
    assert 0 < np.abs(ours - at_once).mean() < 1
    assert np.abs(ours.mean(axis=(0, 1)) - at_once.mean(axis=(0, 1))).max() < 0.1
