"""From pictures to detections, whatever runs the network."""

import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketdet.core.decode import NMS_OVERLAPS, Nms
from pocketdet.core.detections import Detections
from pocketdet.core.images import read_image, read_picture
from pocketdet.core.letterbox import Letterbox
from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.records import Record
from pocketdet.errors import ImageError, SettingsError
from pocketdet.runtime.backends import Backend
from pocketdet.runtime.boxes import find_boxes
from pocketdet.runtime.sources import is_single_picture, iter_pictures
from pocketdet.runtime.stream import map_in_order
from pocketdet.runtime.tiles import Tile, merge_tiles, place_tiles

Pixels = NDArray[np.uint8]
Source = str | Path | bytes | Pixels

SCORE_THRESHOLD = 0.3
IOU_THRESHOLD = 0.5  # on pictures held out of a training: AP50 1.5 points above 0.6's, AP equal
EVALUATION_SCORE_THRESHOLD = 0.001  # average precision looks at the whole curve, so nearly everything has to be kept
SMALLEST_TILE = 32  # pixels
# Before it is resized, a picture is made smaller by a whole number (a JPEG by its decoder, another by means of squares)
# as long as it stays so many times as large as it lies in the network's input. Nearer to 1 a JPEG comes out sharper
# than resizing alone makes it: AP is the same, boxes move by a pixel or two (docs/predicting.md).
MARGIN = 1.5


class Prepared(NamedTuple):
    """A picture that is ready for the network, and how it lies there."""

    image: Pixels  # (input height, input width, 3) RGB
    letterbox: Letterbox


class Predictor:
    """A detector that is ready to use.

    Args:
        backend: Runs the network.
        nms: "iou", or "diou" to keep boxes that overlap much with distant centres.
        threads: Pictures of several, and tiles of one, that are worked on at once; by default as many as the machine
            has cores.
        open_shared: Opens the same network for so many runs at once, which share the threads; called when a second
            picture or tile comes. Without it all pictures go through ``backend``.

    Raises:
        SettingsError: There is no such ``nms``, or the file has its own, which is "iou".
    """

    def __init__(
        self,
        backend: Backend,
        nms: Nms = "iou",
        threads: int | None = None,
        open_shared: Callable[[int], Backend] | None = None,
    ) -> None:
        if nms not in NMS_OVERLAPS:
            raise SettingsError(f"nms is {nms!r}; it must be one of {', '.join(NMS_OVERLAPS)}")
        if nms != "iou" and backend.metadata.outputs == "suppressed":
            raise SettingsError(f'nms is "{nms}", but the file was exported with its own NMS, which is "iou"')
        self._backend = backend
        self._nms = nms
        self._threads = threads or os.cpu_count() or 1
        self._open_shared = open_shared
        self._shared: Backend | None = None
        self._opening = threading.Lock()

    @property
    def metadata(self) -> ModelMetadata:
        """What the model file says about itself."""
        return self._backend.metadata

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the class ids, from 0."""
        return self.metadata.class_names

    @overload
    def predict(
        self,
        source: bytes | Pixels,
        score_threshold: float = ...,
        iou_threshold: float = ...,
        keep_image: bool = ...,
        tiles: int | None = ...,
    ) -> Detections: ...
    @overload
    def predict(
        self,
        source: Sequence[Source],
        score_threshold: float = ...,
        iou_threshold: float = ...,
        keep_image: bool = ...,
        tiles: int | None = ...,
    ) -> list[Detections]: ...
    @overload
    def predict(
        self,
        source: str | Path,
        score_threshold: float = ...,
        iou_threshold: float = ...,
        keep_image: bool = ...,
        tiles: int | None = ...,
    ) -> Any: ...
    def predict(
        self,
        source: Source | Sequence[Source],
        score_threshold: float = SCORE_THRESHOLD,
        iou_threshold: float = IOU_THRESHOLD,
        keep_image: bool = True,
        tiles: int | None = None,
    ) -> Any:
        """Find objects.

        Args:
            source: A picture: its path, its encoded bytes or an ``(H, W, 3)`` RGB uint8 array; or several: a list of
                these, a folder or a pattern such as ``"photos/*.jpg"``.
            score_threshold: Only detections with a score above this, 0 to 1.
            iou_threshold: Boxes of one class that overlap more than this are one object, 0 to 1.
            keep_image: Keep the pixels of arrays and bytes for drawing; pictures with a path are read again for that.
            tiles: Look at large pictures also in overlapping square tiles of this side, in pixels: for objects that
                are too small where the whole picture is made as small as the network's input.

        Returns:
            ``Detections`` for one picture, a list of them for several.

        Raises:
            ImageError: A picture is missing or unreadable, or a folder has none.
            SettingsError: A threshold is not in 0 to 1, or the tiles are too small.
        """
        if isinstance(source, bytes | np.ndarray) or (isinstance(source, str | Path) and is_single_picture(source)):
            return self._predict_one(source, _Wish(score_threshold, iou_threshold, keep_image, tiles))
        return list(self.iter_predict(source, score_threshold, iou_threshold, keep_image, tiles))

    def iter_predict(
        self,
        sources: Source | Iterable[Source],
        score_threshold: float = SCORE_THRESHOLD,
        iou_threshold: float = IOU_THRESHOLD,
        keep_image: bool = True,
        tiles: int | None = None,
        on_error: Callable[[Source, ImageError], None] | None = None,
    ) -> Iterator[Detections]:
        """As ``predict`` on several pictures, in order, as they are asked for: for folders of any size.

        Threads work on a few pictures ahead; what was given out is not kept.

        Args:
            sources: As for ``predict``, or what gives any number of them.
            score_threshold: As for ``predict``.
            iou_threshold: As for ``predict``.
            keep_image: As for ``predict``.
            tiles: As for ``predict``.
            on_error: Told of each picture or folder that cannot be read, which is then left out; without it the error
                is raised in its turn.
        """
        wish = _Wish(score_threshold, iou_threshold, keep_image, tiles)
        wish.check()

        # The tiles of one picture already keep all threads busy.
        threads = self._threads if tiles is None else 1

        def look(picture: tuple[int, tuple[Source, ImageError | None]]) -> Detections:
            number, (source, error) = picture
            if error is not None:
                raise error
            return self._predict_one(source, wish, self._backend_for(number, threads))

        for (_, (source, _)), result in map_in_order(look, enumerate(_each_picture(sources)), threads):
            try:
                found = result()
            except ImageError as error:
                if on_error is None:
                    raise
                on_error(source, error)
            else:
                yield found

    def predict_record(self, record: Record) -> Detections:
        """Of a labelled picture, with the score threshold that average precision asks for."""
        return self._predict_one(record.path, _Wish(EVALUATION_SCORE_THRESHOLD, IOU_THRESHOLD, False, None))

    def predict_pixels(
        self, pixels: Pixels, full_size: tuple[int, int], score_threshold: float, iou_threshold: float
    ) -> Detections:
        """The way from pixels to boxes, without files.

        Args:
            pixels: ``(H, W, 3)`` RGB, perhaps at a reduced scale.
            full_size: (height, width) of the full picture; the boxes are in its pixels.
            score_threshold: Only detections with a score above this.
            iou_threshold: Boxes of one class that overlap more than this are one object.

        Raises:
            SettingsError: A threshold is not in 0 to 1.
        """
        return self.detect([self._letterboxed(pixels, full_size)], [(score_threshold, iou_threshold)])[0]

    def prepare(self, source: Source) -> Prepared:
        """Read and letterbox one picture, which needs no network and may run in another thread.

        Raises:
            ImageError: The picture is missing or unreadable.
        """
        picture: Pixels | Image.Image
        if isinstance(source, np.ndarray):
            picture, size = read_image(source)
        else:
            picture, size = read_picture(source, self._enough)
        return self._letterboxed(picture, size)

    def detect(self, batch: Sequence[Prepared], thresholds: Sequence[tuple[float, float]]) -> list[Detections]:
        """Run the network once over several pictures.

        Args:
            batch: From ``prepare``.
            thresholds: Of each picture: its score threshold and its IoU threshold.

        Raises:
            SettingsError: A threshold is not in 0 to 1.
        """
        return self._detect(self._backend, batch, thresholds)

    def _detect(
        self, backend: Backend, batch: Sequence[Prepared], thresholds: Sequence[tuple[float, float]]
    ) -> list[Detections]:
        for score_threshold, iou_threshold in thresholds:
            _check_thresholds(score_threshold, iou_threshold)
        images = batch[0].image[None] if len(batch) == 1 else np.stack([prepared.image for prepared in batch])
        found: list[Detections] = []
        for (_, letterbox), decoded in zip(batch, find_boxes(backend, images, thresholds, self._nms), strict=True):
            boxes = letterbox.to_image(decoded.boxes)
            found.append(Detections(boxes, decoded.scores, decoded.class_ids, self.class_names, letterbox.image_size))
        return found

    def _backend_for(self, number: int, at_once: int) -> Backend:
        """For one of several pictures or tiles; the first does not wait for another network to be opened."""
        if number == 0 or at_once == 1 or self._open_shared is None:
            return self._backend
        with self._opening:
            if self._shared is None:
                self._shared = self._open_shared(at_once)
            return self._shared

    def _predict_one(self, source: Source, wish: "_Wish", backend: Backend | None = None) -> Detections:
        wish.check()
        has_path = isinstance(source, str | Path)
        pixels = read_image(source).pixels if wish.keep_image and not has_path else None
        image = source if pixels is None else pixels
        if wish.tiles is None:
            thresholds = [(wish.score_threshold, wish.iou_threshold)]
            found = self._detect(backend or self._backend, [self.prepare(image)], thresholds)[0]
        else:
            found = self._detect_in_tiles(image, wish.tiles, wish)
        return dataclasses.replace(found, source=str(source) if has_path else "", image=pixels)

    def _detect_in_tiles(self, source: Source, side: int, wish: "_Wish") -> Detections:
        """In tiles and, for objects larger than these, in the whole picture."""
        picture: Pixels | Image.Image
        picture, size = read_image(source) if isinstance(source, np.ndarray) else read_picture(source)
        whole = Tile(0, 0, size[1], size[0])

        def look(numbered: tuple[int, Tile]) -> Detections:
            number, tile = numbered
            if tile == whole:
                part = picture
            elif isinstance(picture, np.ndarray):
                part = picture[tile.top : tile.bottom, tile.left : tile.right]
            else:
                part = picture.crop(tile)
            thresholds = [(wish.score_threshold, wish.iou_threshold)]
            backend = self._backend_for(number, self._threads)
            return self._detect(backend, [self._letterboxed(part, tile.size)], thresholds)[0]

        tiles = dict.fromkeys((*place_tiles(size, side), whole))  # once, where the whole picture is the only tile
        parts = [(tile, result()) for (_, tile), result in map_in_order(look, enumerate(tiles), self._threads)]
        return merge_tiles(parts, whole, wish.iou_threshold, self._nms)

    def _enough(self, full: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that a JPEG of this size has to be decoded at least."""
        height, width = self.metadata.letterbox(full).resized
        return int(MARGIN * height), int(MARGIN * width)

    def _letterboxed(self, picture: Pixels | Image.Image, size: tuple[int, int]) -> Prepared:
        letterbox = self.metadata.letterbox(size)
        return Prepared(letterbox.apply(picture, self.metadata.padding_colour, MARGIN), letterbox)


class _Wish(NamedTuple):
    """What ``predict`` is asked for, besides the picture."""

    score_threshold: float
    iou_threshold: float
    keep_image: bool
    tiles: int | None

    def check(self) -> None:
        _check_thresholds(self.score_threshold, self.iou_threshold)
        if self.tiles is not None and self.tiles < SMALLEST_TILE:
            raise SettingsError(
                f"tiles is {self.tiles}; it is the side of a tile in pixels and must be at least {SMALLEST_TILE}"
            )


def _check_thresholds(score_threshold: float, iou_threshold: float) -> None:
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        if not 0 <= value <= 1:
            raise SettingsError(f"{name} is {value}; it must be between 0 and 1")


def _each_picture(sources: Source | Iterable[Source]) -> Iterator[tuple[Source, ImageError | None]]:
    """Every picture; in the place of a source that names none, that source and why."""
    for source in [sources] if isinstance(sources, str | Path | bytes | np.ndarray) else sources:
        if not isinstance(source, str | Path):
            yield source, None
            continue
        try:
            for path in iter_pictures(source):
                yield path, None
        except ImageError as error:
            yield source, error
