"""From pictures to detections, whatever runs the network."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketdet.core.decode import NMS_OVERLAPS, Nms, decode_picture
from pocketdet.core.detections import Detections
from pocketdet.core.images import read_image, read_picture
from pocketdet.core.letterbox import Letterbox
from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.records import Record
from pocketdet.errors import SettingsError
from pocketdet.runtime.backends import Backend
from pocketdet.runtime.sources import is_single_picture, list_pictures

Pixels = NDArray[np.uint8]
Source = str | Path | bytes | Pixels

SCORE_THRESHOLD = 0.3
IOU_THRESHOLD = 0.5  # on pictures held out of a training: AP50 1.5 points above 0.6's, AP equal
EVALUATION_SCORE_THRESHOLD = 0.001  # average precision looks at the whole curve, so nearly everything has to be kept


class Prepared(NamedTuple):
    """A picture that is ready for the network, and how it lies there."""

    image: Pixels  # (input height, input width, 3) RGB
    letterbox: Letterbox


class Predictor:
    """A detector that is ready to use.

    Args:
        backend: Runs the network.
        nms: "iou", or "diou" to keep boxes that overlap much with distant centres.

    Raises:
        SettingsError: There is no such ``nms``.
    """

    def __init__(self, backend: Backend, nms: Nms = "iou") -> None:
        if nms not in NMS_OVERLAPS:
            raise SettingsError(f"nms is {nms!r}; it must be one of {', '.join(NMS_OVERLAPS)}")
        self._backend = backend
        self._nms = nms

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
    ) -> Detections: ...
    @overload
    def predict(
        self,
        source: Sequence[Source],
        score_threshold: float = ...,
        iou_threshold: float = ...,
        keep_image: bool = ...,
    ) -> list[Detections]: ...
    @overload
    def predict(
        self,
        source: str | Path,
        score_threshold: float = ...,
        iou_threshold: float = ...,
        keep_image: bool = ...,
    ) -> Any: ...
    def predict(
        self,
        source: Source | Sequence[Source],
        score_threshold: float = SCORE_THRESHOLD,
        iou_threshold: float = IOU_THRESHOLD,
        keep_image: bool = True,
    ) -> Any:
        """Find objects.

        Args:
            source: A picture: its path, its encoded bytes or an ``(H, W, 3)`` RGB uint8 array; or several: a list of
                these, a folder or a pattern such as ``"photos/*.jpg"``.
            score_threshold: Only detections with a score above this, 0 to 1.
            iou_threshold: Boxes of one class that overlap more than this are one object, 0 to 1.
            keep_image: Keep the pixels of arrays and bytes for drawing; pictures with a path are read again for that.

        Returns:
            ``Detections`` for one picture, a list of them for several.

        Raises:
            ImageError: A picture is missing or unreadable, or a folder has none.
            SettingsError: A threshold is not in 0 to 1.
        """
        if isinstance(source, bytes | np.ndarray) or (isinstance(source, str | Path) and is_single_picture(source)):
            return self._predict_one(source, score_threshold, iou_threshold, keep_image)
        return list(self.iter_predict(source, score_threshold, iou_threshold, keep_image))

    def iter_predict(
        self,
        sources: Source | Iterable[Source],
        score_threshold: float = SCORE_THRESHOLD,
        iou_threshold: float = IOU_THRESHOLD,
        keep_image: bool = True,
    ) -> Iterator[Detections]:
        """As ``predict`` on several pictures, one after the other as they are asked for: for large folders."""
        listed = [sources] if isinstance(sources, str | Path | bytes | np.ndarray) else sources
        for source in listed:
            pictures = list_pictures(source) if isinstance(source, str | Path) else (source,)
            for picture in pictures:
                yield self._predict_one(picture, score_threshold, iou_threshold, keep_image)

    def predict_record(self, record: Record) -> Detections:
        """Of a labelled picture, with the score threshold that average precision asks for."""
        return self._predict_one(record.path, EVALUATION_SCORE_THRESHOLD, IOU_THRESHOLD, keep_image=False)

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
        letterbox = Letterbox(full_size, self.metadata.input_size)
        prepared = Prepared(letterbox.apply(pixels, self.metadata.padding_colour), letterbox)
        return self.detect([prepared], [(score_threshold, iou_threshold)])[0]

    def prepare(self, source: Source) -> Prepared:
        """Read and letterbox one picture, which needs no network and may run in another thread.

        Raises:
            ImageError: The picture is missing or unreadable.
        """
        picture: Pixels | Image.Image
        if isinstance(source, np.ndarray):
            picture, size = read_image(source)
        else:
            # A JPEG need not be decoded larger than it will lie in the network's input.
            picture, size = read_picture(source, lambda full: Letterbox(full, self.metadata.input_size).resized)
        letterbox = Letterbox(size, self.metadata.input_size)
        return Prepared(letterbox.apply(picture, self.metadata.padding_colour), letterbox)

    def detect(self, batch: Sequence[Prepared], thresholds: Sequence[tuple[float, float]]) -> list[Detections]:
        """Run the network once over several pictures.

        Args:
            batch: From ``prepare``.
            thresholds: Of each picture: its score threshold and its IoU threshold.

        Raises:
            SettingsError: A threshold is not in 0 to 1.
        """
        for pair in thresholds:
            for name, value in zip(("score_threshold", "iou_threshold"), pair, strict=True):
                if not 0 <= value <= 1:
                    raise SettingsError(f"{name} is {value}; it must be between 0 and 1")
        images = batch[0].image[None] if len(batch) == 1 else np.stack([prepared.image for prepared in batch])
        levels = self._backend.run(images)
        found: list[Detections] = []
        for n, ((_, letterbox), (score, iou)) in enumerate(zip(batch, thresholds, strict=True)):
            decoded = decode_picture(levels, n, self.metadata, score, iou, nms=self._nms)
            boxes = letterbox.to_image(decoded.boxes)
            found.append(Detections(boxes, decoded.scores, decoded.class_ids, self.class_names, letterbox.image_size))
        return found

    def _predict_one(
        self, source: Source, score_threshold: float, iou_threshold: float, keep_image: bool
    ) -> Detections:
        if isinstance(source, str | Path):
            return dataclasses.replace(
                self.detect([self.prepare(source)], [(score_threshold, iou_threshold)])[0], source=str(source)
            )
        pixels = read_image(source).pixels if keep_image else None
        prepared = self.prepare(source if pixels is None else pixels)
        return dataclasses.replace(self.detect([prepared], [(score_threshold, iou_threshold)])[0], image=pixels)
