"""Pictures from files, bytes and arrays: upright RGB, or an error that names the file."""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pocketdet.errors import ImageError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = (5, 6, 7, 8)  # orientations that exchange height and width


Size = tuple[int, int]  # (height, width)
AtLeast = Size | Callable[[Size], Size] | None


class ReadImage(NamedTuple):
    """A picture as it is looked at, EXIF orientation applied."""

    pixels: NDArray[np.uint8]  # (H, W, 3) RGB; smaller than size where a JPEG was decoded at a reduced scale
    size: Size  # of the full picture


def read_image(source: str | Path | bytes | NDArray[np.uint8], at_least: AtLeast = None) -> ReadImage:
    """Read a picture as upright RGB.

    Transparent places become white, 16 bits become 8.

    Args:
        source: A file, the bytes of one, or ``(H, W, 3)`` RGB uint8, which is returned as it is.
        at_least: (height, width) that are enough, upright, or how they follow from the picture's: a JPEG may be
            decoded at 1/2, 1/4 or 1/8 of its size as long as neither side falls below.

    Raises:
        ImageError: The picture is missing, cut, too large or no picture; the message names it.
    """
    if isinstance(source, np.ndarray):
        return _check_array(source)
    picture, size = read_picture(source, at_least)
    return ReadImage(np.array(picture), size)


def read_picture(source: str | Path | bytes, at_least: AtLeast = None) -> tuple[Image.Image, Size]:
    """As ``read_image``, as Pillow's RGB picture: what is resized next need not become an array before."""
    with _opened(source) as picture:
        orientation = _orientation(picture)
        size = _upright_size(picture, orientation)
        if at_least is not None:
            enough = at_least(size) if callable(at_least) else at_least
            picture.draft(None, enough if orientation in _SWAPPED else enough[::-1])
        upright = _to_rgb(picture)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
        return upright, size


def image_size(source: str | Path | bytes) -> Size:
    """(height, width) of the upright picture, from its header alone.

    Raises:
        ImageError: The picture is missing or no picture.
    """
    with _opened(source) as picture:
        return _upright_size(picture, _orientation(picture))


def image_orientation(source: str | Path | bytes) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none.

    Raises:
        ImageError: The picture is missing or no picture.
    """
    with _opened(source) as picture:
        return _orientation(picture)


@contextlib.contextmanager
def _opened(source: str | Path | bytes) -> Iterator[Image.Image]:
    """Pillow's picture; whatever goes wrong with it is an ImageError."""
    if not isinstance(source, str | Path | bytes):
        raise ImageError(f"got a {type(source).__name__}; expected a path, bytes, or an array (H, W, 3) of RGB uint8")
    name = "the given bytes" if isinstance(source, bytes) else str(source)
    _check_presence(source, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what it cannot read, it raises
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
                yield picture
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error
        except UnidentifiedImageError as error:
            raise ImageError(
                f"{name}: not a picture, or of a kind that Pillow cannot read; expected JPEG, PNG, WebP, BMP, GIF "
                f"or TIFF: convert it or leave it out"
            ) from error
        except Image.DecompressionBombError as error:
            raise ImageError(f"{name}: too large to be decoded safely ({error}); make it smaller") from error
        except Exception as error:  # on damaged files Pillow's readers raise whatever they trip over
            raise ImageError(
                f"{name}: cut or damaged ({error}); replace it by an intact copy or leave it out"
            ) from error


def _check_presence(source: str | Path | bytes, name: str) -> None:
    if isinstance(source, bytes):
        if not source:
            raise ImageError(f"{name}: empty; expected the content of a picture file")
        return
    try:
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name}: a folder; expected a picture file")
        if not path.exists():
            raise ImageError(f"{name}: no such file; check the path (relative ones start in {Path.cwd()})")
        if path.stat().st_size == 0 and path.is_file():
            raise ImageError(f"{name}: empty (0 bytes); copy it again or leave it out")
    except (OSError, ValueError) as error:  # a name too long, a zero byte in it, no permission
        raise ImageError(f"{name}: cannot be opened ({error}); check the path and its permissions") from error


def _orientation(picture: Image.Image) -> int:
    try:
        # The base class's method: PNG's own decodes all pixels in search of a late chunk.
        return int(Image.Image.getexif(picture).get(_ORIENTATION, 1))
    except Exception:  # a picture with broken EXIF is still a picture
        return 1


def _upright_size(picture: Image.Image, orientation: int) -> Size:
    width, height = picture.size
    return (width, height) if orientation in _SWAPPED else (height, width)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ImageError("holds floating-point values without a known range; convert it to 8 or 16 bits")
    if picture.mode.startswith("I"):  # 16 bits; "I" is how Pillow holds some of them
        wide = np.asarray(picture).astype(np.int64)
        return Image.fromarray(np.clip(wide >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        transparent = picture.convert("RGBA")
        white = Image.new("RGBA", transparent.size, "white")
        return Image.alpha_composite(white, transparent).convert("RGB")
    if picture.mode == "RGB":
        picture.load()
        return picture  # Pillow's convert would copy it
    return picture.convert("RGB")


def _check_array(array: NDArray[np.uint8]) -> ReadImage:
    if array.dtype != np.uint8:
        hint = "multiply by 255 and use .astype(np.uint8)" if array.dtype.kind == "f" else "use .astype(np.uint8)"
        raise ImageError(f"the array is {array.dtype}; expected uint8 from 0 to 255: {hint}")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f"the array has shape {array.shape}; expected (height, width, 3) of RGB{_shape_hint(array)}")
    return ReadImage(array, (array.shape[0], array.shape[1]))


def _shape_hint(array: NDArray[np.uint8]) -> str:
    if array.ndim == 2:
        return ": use np.stack([array] * 3, axis=2)"
    if array.ndim == 3 and array.shape[2] == 4:
        return ": use array[..., :3]"
    if array.ndim == 3 and array.shape[0] == 3:
        return ": use array.transpose(1, 2, 0)"
    return ""
