"""A darknet configuration and its weights become a detector of pocketdet."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from pocketdet.core.metadata import DARKNET, ModelMetadata
from pocketdet.errors import ModelFileError
from pocketdet.models.darknet.configuration import read_note
from pocketdet.models.darknet.network import Darknet
from pocketdet.models.darknet.weights import read_weights
from pocketdet.models.detector import NO_MEAN, NO_STD, Detector, build_darknet
from pocketdet.models.importing import Imported, check_class_names

GREY = (127, 127, 127)  # darknet's own bars of the letterbox


def import_darknet(configuration: Path, weights: Path, class_names: Sequence[str]) -> Imported:
    """Read darknet's two files.

    Args:
        configuration: The ``.cfg`` file.
        weights: The ``.weights`` file.
        class_names: In the order of the class ids; darknet's files do not hold them, but for those that
            ``pocketdet export`` wrote.

    Raises:
        ModelFileError: A file is missing, cut, not supported, or the two do not belong together.
        SettingsError: Too few or too many class names.
    """
    text = read_configuration(configuration)
    detector = build_darknet(text, file=str(configuration))
    note = read_note(text, str(configuration))
    class_names = class_names or (note.class_names if note else ())
    check_class_names(class_names, _network(detector).levels[0].num_classes, str(configuration))
    metadata = describe_darknet(detector, class_names)
    if note is not None:
        facts = ("licence", "training_data", "metrics", "padding_colour", "stretch")
        metadata = dataclasses.replace(metadata, **{name: getattr(note, name) for name in facts})
    absent = read_weights(detector, weights)
    return Imported(detector.eval(), metadata, missing=absent)


def read_configuration(path: Path) -> str:
    """The text of a ``.cfg`` file.

    Raises:
        ModelFileError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error


def describe_darknet(
    detector: Detector, class_names: Sequence[str], input_size: tuple[int, int] | None = None
) -> ModelMetadata:
    """The metadata of a detector that ``build_darknet`` made, with the anchors and decoding of its configuration.

    Args:
        detector: Stays as it is.
        class_names: In the order of the class ids; not necessarily as many as the configuration has.
        input_size: (height, width) in pixels; by default the configuration's.

    Raises:
        ModelFileError: Its layers do not fit each other at that size.
        SettingsError: The size is no multiple of the largest stride.
    """
    from pocketdet import __version__

    network = _network(detector)
    input_size = input_size or network.input_size
    _check_shapes(network, input_size)
    return ModelMetadata(
        backbone=DARKNET,
        width=1.0,
        neck_width=1.0,
        padding=network.padding,
        class_names=tuple(class_names),
        input_size=input_size,
        anchors=tuple(level.anchors for level in network.levels),
        strides=network.strides,
        scale_xy=tuple(level.scale_xy for level in network.levels),
        mean=NO_MEAN,
        std=NO_STD,
        padding_colour=GREY,
        stretch=True,
        licence="",
        pocketdet_version=__version__,
        configuration=network.configuration,
    )


def _network(detector: Detector) -> Darknet:
    assert isinstance(detector.backbone, Darknet)
    return detector.backbone


def _check_shapes(network: Darknet, input_size: tuple[int, int]) -> None:
    """A pass that computes nothing."""
    height, width = input_size
    expected = [(height // stride, width // stride) for stride in network.strides]
    try:
        with torch.inference_mode(), torch.device("meta"):
            meta = Darknet(network.configuration, network.file).eval()
            found = [tuple(level.shape[2:]) for level in meta(torch.empty(1, 3, height, width))]
    except RuntimeError as error:
        raise ModelFileError(
            f"{network.file}: its layers do not fit each other at {height} x {width} pixels: {error}"
        ) from error
    if found != expected:
        raise ModelFileError(
            f"{network.file}: the grids at {height} x {width} pixels are {found}, and its strides say {expected}; "
            "a convolution without padding is not supported"
        )
