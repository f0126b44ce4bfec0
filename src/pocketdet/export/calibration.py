"""Real pictures, from which int8 learns how large the values in a network become."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.images import read_image
from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.load import load_dataset
from pocketdet.datasets.records import spread
from pocketdet.errors import ImageError, SettingsError
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


def read_calibration(
    calibration: Calibration | None, metadata: ModelMetadata, tell: Callable[[str], None]
) -> NDArray[np.uint8]:
    """At most ``MAX_PICTURES`` pictures, evenly spread; a few that cannot be read are told of and left out.

    Args:
        calibration: Where they are.
        metadata: Of the network; says how they are letterboxed.
        tell: Takes a line for each that is left out.

    Returns:
        ``(N, H, W, 3)``, letterboxed to the network's input.

    Raises:
        SettingsError: No pictures were named.
        ImageError: Half of the pictures cannot be read, or the folder has none.
        DataError: The data set cannot be read or has no such split.
    """
    if calibration is None:
        raise SettingsError(
            "int8 needs some hundred pictures like those that the detector will see, to learn how large the values "
            "in the network become: name a data set by --data (its train split is taken), or a folder by --calibration"
        )
    paths = spread(_list(calibration, metadata), MAX_PICTURES)
    pictures: list[NDArray[np.uint8]] = []
    broken: list[str] = []
    for path in paths:
        try:
            pictures.append(_letterboxed(path, metadata))
        except ImageError as error:
            broken.append(str(error))
            tell(f"int8: left out of the calibration: {error}")
    if len(broken) >= len(pictures):
        raise ImageError(
            f"{calibration.source}: {len(broken)} of {len(paths)} pictures for the calibration cannot be read, such as "
            f"{broken[0]}; give a folder of whole ones"
        )
    return np.stack(pictures)


def _list(calibration: Calibration, metadata: ModelMetadata) -> Sequence[Path]:
    if calibration.split is None:
        return list(list_pictures(calibration.source))
    dataset = load_dataset(calibration.source, [calibration.split], metadata.class_names)
    return [record.path for record in dataset.records]


def _letterboxed(path: Path, metadata: ModelMetadata) -> NDArray[np.uint8]:
    picture = read_image(path, at_least=metadata.input_size)
    return metadata.letterbox(picture.size).apply(picture.pixels, metadata.padding_colour)
