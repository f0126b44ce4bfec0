"""Real pictures, from which int8 learns how large the values in a network become."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.images import read_image
from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.load import load_dataset
from pocketdet.errors import SettingsError
from pocketdet.runtime.sources import list_pictures

MAX_PICTURES = 200


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Where the pictures come from; they should be none on which the file is judged later.

    Args:
        source: A data set, or a folder of pictures or a pattern.
        split: Of a data set; ``None`` for plain pictures.
    """

    source: Path
    split: str | None = None


def read_calibration(calibration: Calibration | None, metadata: ModelMetadata) -> NDArray[np.uint8]:
    """At most ``MAX_PICTURES`` pictures, evenly spread.

    Returns:
        ``(N, H, W, 3)``, letterboxed to the network's input.

    Raises:
        SettingsError: No pictures were named.
        ImageError: A picture cannot be read, or the folder has none.
        DataError: The data set cannot be read or has no such split.
    """
    if calibration is None:
        raise SettingsError(
            "int8 needs some hundred pictures like those that the detector will see, to learn how large the values "
            "in the network become: name a data set by --data (its train split is taken), or a folder by --calibration"
        )
    paths = _spread(_list(calibration, metadata), MAX_PICTURES)
    return np.stack([_letterboxed(path, metadata) for path in paths])


def _list(calibration: Calibration, metadata: ModelMetadata) -> Sequence[Path]:
    if calibration.split is None:
        return list(list_pictures(calibration.source))
    dataset = load_dataset(calibration.source, [calibration.split], metadata.class_names)
    return [record.path for record in dataset.records]


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int))
    return [paths[index] for index in chosen]


def _letterboxed(path: Path, metadata: ModelMetadata) -> NDArray[np.uint8]:
    picture = read_image(path, at_least=metadata.input_size)
    return metadata.letterbox(picture.size).apply(picture.pixels, metadata.padding_colour)
