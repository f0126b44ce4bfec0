import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pocketdet.core.images import image_size, read_image
from pocketdet.errors import ImageError

HEIGHT, WIDTH = 96, 160


@pytest.fixture
def gradient() -> Image.Image:
    """A smooth picture whose four corners differ, so that every turn of it is told from the others."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack((row * 2, column * 255 // WIDTH, (row + column) // 2), axis=2).astype(np.uint8)
    return Image.fromarray(pixels)


def save(picture: Image.Image, path: Path, orientation: int | None = None, **options: object) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    picture.save(path, exif=exif.tobytes() if orientation else b"", **options)
    return path


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied_as_pillow_applies_it(gradient, tmp_path, orientation):
    path = save(gradient, tmp_path / "turned.jpg", orientation, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    pixels, size = read_image(path)
    np.testing.assert_array_equal(pixels, expected)
    assert size == expected.shape[:2] == image_size(path)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_reduced_jpeg_is_the_same_picture_in_small_whatever_its_orientation(gradient, tmp_path, orientation):
    path = save(gradient, tmp_path / "turned.jpg", orientation, quality=95)
    full = read_image(path).pixels
    height, width = full.shape[:2]
    at_least = (height // 4, width // 4)
    pixels, size = read_image(path, at_least)
    assert pixels.shape == (*at_least, 3)
    assert size == (height, width)
    small = np.asarray(Image.fromarray(full).resize((width // 4, height // 4), Image.Resampling.BOX))
    assert mean_difference(pixels, small) < 3


@pytest.mark.parametrize(
    ("at_least", "expected"),
    [((96, 160), (96, 160)), ((49, 80), (96, 160)), ((48, 80), (48, 80)), ((30, 10), (48, 80)), ((1, 1), (12, 20))],
)
def test_a_reduced_jpeg_never_falls_below_what_was_asked_for(gradient, tmp_path, at_least, expected):
    path = save(gradient, tmp_path / "picture.jpg")
    assert read_image(path, at_least).pixels.shape[:2] == expected


@pytest.mark.parametrize("orientation", [1, 6])
def test_what_is_enough_may_follow_from_the_upright_size(gradient, tmp_path, orientation):
    path = save(gradient, tmp_path / "picture.jpg", orientation)
    seen = []

    def quarter(size):
        seen.append(size)
        return size[0] // 4, size[1] // 4

    pixels, size = read_image(path, quarter)
    assert seen == [size]
    assert pixels.shape == (size[0] // 4, size[1] // 4, 3)


def test_at_least_leaves_other_formats_whole(gradient, tmp_path):
    path = save(gradient, tmp_path / "picture.png")
    np.testing.assert_array_equal(read_image(path, (8, 8)).pixels, np.asarray(gradient))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_modes_without_transparency_become_what_pillow_makes_of_them(gradient, tmp_path, mode):
    suffix = {"CMYK": "tif", "YCbCr": "tif"}.get(mode, "png")
    picture = gradient.convert(mode) if mode != "HSV" else gradient
    path = save(picture, tmp_path / f"picture.{suffix}")
    np.testing.assert_array_equal(read_image(path).pixels, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_places_become_white(tmp_path, mode):
    picture = Image.new(mode, (4, 2), 0)
    picture.putpixel((0, 0), (255, 0, 0, 255) if mode == "RGBA" else (255, 255))
    path = save(picture, tmp_path / "picture.png")
    pixels = read_image(path).pixels
    assert (pixels[1] == 255).all()
    assert tuple(pixels[0, 0]) == ((255, 0, 0) if mode == "RGBA" else (255, 255, 255))


def test_a_transparent_palette_becomes_white_without_a_warning(tmp_path):
    picture = Image.new("P", (4, 2), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30, 200, 100, 50])
    picture.putpixel((3, 1), 2)
    picture.save(tmp_path / "picture.png", transparency=bytes([255, 0, 255]))
    pixels = read_image(tmp_path / "picture.png").pixels
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert tuple(pixels[1, 3]) == (200, 100, 50)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_the_upper_eight(tmp_path, suffix):
    values = np.array([[0, 255, 256], [0x1234, 0x80FF, 0xFFFF]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    pixels = read_image(tmp_path / f"deep.{suffix}").pixels
    np.testing.assert_array_equal(pixels, np.stack([values >> 8] * 3, axis=2))


def test_bytes_and_text_paths_read_as_paths_do(gradient, tmp_path):
    path = save(gradient, tmp_path / "picture.jpg", 6)
    for source in (path.read_bytes(), str(path)):
        np.testing.assert_array_equal(read_image(source).pixels, read_image(path).pixels)
        assert image_size(source) == (WIDTH, HEIGHT)


def test_pixels_may_be_written_to(gradient, tmp_path):
    assert read_image(save(gradient, tmp_path / "picture.png")).pixels.flags.writeable


def test_an_array_is_returned_as_it_is():
    array = np.zeros((3, 5, 3), np.uint8)
    pixels, size = read_image(array, at_least=(1, 1))
    assert pixels is array
    assert size == (3, 5)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"float32; expected uint8 from 0 to 255: multiply by 255"),
        (np.zeros((4, 5, 3), np.int64), r"int64; expected uint8"),
        (np.zeros((4, 5), np.uint8), r"\(4, 5\); expected \(height, width, 3\) of RGB: use np.stack"),
        (np.zeros((4, 5, 4), np.uint8), r"\(4, 5, 4\).*\[\.\.\., :3\]"),
        (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\).*transpose"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
    ],
)
def test_an_array_of_another_kind_is_refused_with_the_way_out(array, message):
    with pytest.raises(ImageError, match=message):
        read_image(array)


def test_other_objects_are_refused_by_their_type():
    with pytest.raises(ImageError, match="got a list; expected a path, bytes, or an array"):
        read_image([1, 2, 3])  # type: ignore[arg-type]


def jpeg_bytes(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("read", [read_image, image_size])
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", r"empty \(0 bytes\)"), (b"not a picture at all\n" * 20, "not a picture")],
)
def test_what_is_no_picture_is_refused_by_its_name(tmp_path, read, content, message):
    path = tmp_path / "cat.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"cat\.jpg: {message}"):
        read(path)


@pytest.mark.parametrize("at_least", [None, (8, 8)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
def test_a_picture_cut_in_half_is_refused_by_its_name(tmp_path, suffix, at_least):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    path = save(Image.fromarray(noise), tmp_path / f"whole.{suffix}")
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}: .*(leave it out|cannot read)"):
        read_image(cut, at_least)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ImageError, match="a folder; expected a picture file"):
        read_image(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "zero\0byte"])
def test_an_impossible_path_is_refused(name):
    with pytest.raises(ImageError, match=r"cannot be opened|no such file"):
        read_image(name)


def test_empty_and_foreign_bytes_are_refused():
    with pytest.raises(ImageError, match="the given bytes: empty"):
        read_image(b"")
    with pytest.raises(ImageError, match="the given bytes: not a picture"):
        read_image(b"hello")


def test_a_decompression_bomb_is_refused_and_a_merely_large_picture_is_not(gradient, tmp_path, monkeypatch):
    path = save(gradient, tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)  # Pillow only warns up to twice this
    assert read_image(path).size == (HEIGHT, WIDTH)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
    with pytest.raises(ImageError, match=r"large\.png: too large"):
        read_image(path)


def test_floating_point_pictures_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "depth.tif")
    with pytest.raises(ImageError, match=r"depth\.tif: holds floating-point values"):
        read_image(tmp_path / "depth.tif")


def test_broken_exif_costs_the_orientation_only(gradient, tmp_path):
    content = bytearray(jpeg_bytes(gradient))
    segment = b"Exif\0\0MM\0*\xff\xff\xff\xff garbage"
    content[2:2] = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    assert read_image(bytes(content)).size == (HEIGHT, WIDTH)
