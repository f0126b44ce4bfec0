"""Decoded training pictures, kept for the next epoch, one copy for all workers."""

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pocketdet.core.images import read_image
from pocketdet.datasets.records import Record

CACHE_BYTES = 3 * 2**30  # decoded pictures kept, for each training process and all its workers together
DISK_SHARE = 0.5  # of what is free in the temporary folder, at most; writing to a mapped file on a full disk kills
SECONDS_TO_LOCK = 60  # a new folder is locked by then
PREFIX, LOCK = "pocketdet-", "in-use"  # of the cache's folder; a file in it that stays locked while a run lives
CACHED_SIDE = 1.25  # long side of a kept picture, in input sizes


class Sample(NamedTuple):
    """A picture and its targets."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    boxes: NDArray[np.float32]  # (T, 4) xyxy, pixels of this picture
    class_ids: NDArray[np.int64]  # (T,)


def cached_side(size: int) -> int:
    """The longest side of a kept picture in pixels, for an input of ``size``."""
    return round(CACHED_SIDE * size)


def read_scaled(record: Record, size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decode a picture, and make it smaller if it is larger than an input of ``size`` has use for.

    Returns:
        ``(H, W, 3)`` RGB, and ``(2,)`` by how much its width and its height were multiplied.

    Raises:
        ImageError: The picture cannot be read.
    """
    side = cached_side(size)
    pixels, (height, width) = read_image(record.path, at_least=(side, side))
    scale = min(1.0, side / max(height, width))
    wanted = (max(1, round(width * scale)), max(1, round(height * scale)))
    if (pixels.shape[1], pixels.shape[0]) != wanted:
        pixels = np.asarray(cv2.resize(pixels, wanted, interpolation=cv2.INTER_AREA), np.uint8)
    return pixels, np.array([wanted[0] / width, wanted[1] / height], np.float32)


def as_sample(record: Record, pixels: NDArray[np.uint8], factors: NDArray[np.float32]) -> Sample:
    """What ``read_scaled`` gave, with its targets."""
    return Sample(pixels, record.boxes * np.tile(factors, 2), record.class_ids)


def remove_abandoned_caches() -> None:
    """Remove what killed runs left in the temporary folder: caches whose lock nobody holds (on POSIX)."""
    if os.name != "posix":
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or in use
            if time.time() - folder.stat().st_mtime > SECONDS_TO_LOCK:
                _remove(folder, _hold(folder / LOCK, os.O_RDWR))


def _hold(path: Path, flags: int) -> int:
    """Open a file and lock it until it is closed, or its process and the forks of it have ended.

    Raises:
        OSError: There is no such file, or another process holds it.
    """
    file = os.open(path, flags, 0o600)
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise
    return file


def _remove(folder: Path, lock: int) -> None:
    os.close(lock)
    shutil.rmtree(folder, ignore_errors=True)


class PictureCache:
    """Training pictures by number: decoded when first asked for, then read from a file that all workers map.

    The file lies in the system's temporary folder, takes at most ``CACHE_BYTES`` and a half of what is free there, and
    goes with the object that made it; a picture that does not fit is decoded each time. Two workers that decode the
    same picture write the same bytes.

    Args:
        records: The pictures.
        size: Height and width of the network's input.
    """

    def __init__(self, records: Sequence[Record], size: int) -> None:
        self.records = records
        self.size = size
        slot = 3 * cached_side(size) ** 2
        remove_abandoned_caches()
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = _hold(self._folder / LOCK, os.O_RDWR | os.O_CREAT)
        bound = min(CACHE_BYTES, int(DISK_SHARE * shutil.disk_usage(self._folder).free))
        self._slots = (min(len(records), bound // slot), slot)
        weakref.finalize(self, _remove, self._folder, lock)
        self._map("w+")

    def __getitem__(self, number: int) -> Sample:
        record = self.records[number]
        if number >= self._slots[0]:
            return as_sample(record, *read_scaled(record, self.size))
        if not self._shapes[number, 0]:
            pixels, factors = read_scaled(record, self.size)
            self._pixels[number, : pixels.size] = pixels.reshape(-1)
            self._factors[number] = factors
            self._shapes[number] = pixels.shape[:2]  # the last, because it says that the rest is there
        height, width = map(int, self._shapes[number])
        pixels = np.asarray(self._pixels[number, : 3 * height * width]).reshape(height, width, 3)
        return as_sample(record, pixels, np.asarray(self._factors[number]))

    def _map(self, mode: Literal["w+", "r+"]) -> None:
        count = max(1, self._slots[0])
        self._pixels = np.memmap(self._folder / "pixels", np.uint8, mode, shape=(count, self._slots[1]))
        self._shapes = np.memmap(self._folder / "shapes", np.int32, mode, shape=(count, 2))
        self._factors = np.memmap(self._folder / "factors", np.float32, mode, shape=(count, 2))

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is started anew, not forked: it maps the file itself."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, np.memmap)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map("r+")
