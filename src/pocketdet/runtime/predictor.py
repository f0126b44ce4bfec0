"""From pictures to detections, whatever runs the network."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import NMS_OVERLAPS, Nms, decode_picture
from pocketdet.core.detections import Detections
from pocketdet.core.images import image_size, read_image
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
        for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
            if not 0 <= value <= 1:
                raise SettingsError(f"{name} is {value}; it must be between 0 and 1")
        letterbox = Letterbox(full_size, self.metadata.input_size)
        images = letterbox.apply(pixels, self.metadata.padding_colour)[None]
        levels = self._backend.run(images)
        decoded = decode_picture(levels, 0, self.metadata, score_threshold, iou_threshold, nms=self._nms)
        boxes = letterbox.to_image(decoded.boxes)
        return Detections(boxes, decoded.scores, decoded.class_ids, self.class_names, full_size)

    def _predict_one(
        self, source: Source, score_threshold: float, iou_threshold: float, keep_image: bool
    ) -> Detections:
        has_path = isinstance(source, str | Path)
        keeps_pixels = keep_image and not has_path
        enough = None if keeps_pixels or isinstance(source, np.ndarray) else self._letterboxed_size(source)
        picture = read_image(source, at_least=enough)
        found = self.predict_pixels(picture.pixels, picture.size, score_threshold, iou_threshold)
        return dataclasses.replace(
            found, source=str(source) if has_path else "", image=picture.pixels if keeps_pixels else None
        )

    def _letterboxed_size(self, source: str | Path | bytes) -> tuple[int, int]:
        """A JPEG need not be decoded larger than it will lie in the network's input."""
        return Letterbox(image_size(source), self.metadata.input_size).resized
