"""A detector as darknet's files: .cfg, .weights and .names."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ExportError
from pocketdet.export.conversion import Conversion
from pocketdet.export.darknet_layers import to_layers, yolo_options
from pocketdet.models.checkpoint import TorchBackend
from pocketdet.models.darknet.configuration import Section, parse, write_note, write_sections
from pocketdet.models.darknet.importing import import_darknet
from pocketdet.models.darknet.network import Darknet
from pocketdet.models.darknet.weights import layers_in_order, tensors_of, write_weights
from pocketdet.models.detector import NO_MEAN, NO_STD, Detector, build_darknet
from pocketdet.runtime.backends import Backend


def write(conversion: Conversion, path: Path) -> None:
    """Write the configuration, and beside it the weights and the names of the classes.

    A network that came from darknet keeps its configuration, but for classes, anchors and input size. Of any other the
    sections are made from its graph.

    Args:
        conversion: What to write.
        path: The ``.cfg`` file; its folder exists.

    Raises:
        ExportError: Darknet has no such layer.
    """
    detector, metadata = conversion.detector, conversion.metadata
    if isinstance(detector.backbone, Darknet):
        if (metadata.mean, metadata.std) != (NO_MEAN, NO_STD):
            raise ExportError(
                f"{path}: darknet's networks see RGB in 0 to 1, and this one was trained with mean {metadata.mean} and "
                f"std {metadata.std}; train it from start weights that darknet trained"
            )
        sections = _sections_of(detector.backbone, metadata)
    else:
        layers = to_layers(detector, metadata)
        sections = [_net(metadata), *layers.sections]
        detector = _rebuild(write_sections(sections), layers.tensors)
    path.write_text(write_note(metadata) + write_sections(sections), encoding="utf-8")
    write_weights(detector, path.with_suffix(".weights"))
    names = "".join(f"{name}\n" for name in metadata.class_names)
    path.with_suffix(".names").write_text(names, encoding="utf-8")


def update_metadata(path: Path, metadata: ModelMetadata) -> None:
    """Put other metadata into the configuration, in the comment at its top."""
    _, _, rest = path.read_text(encoding="utf-8").partition("\n")
    path.write_text(write_note(metadata) + rest, encoding="utf-8")


def read_back(path: Path) -> Backend:
    """Run the files as any import of darknet's files does."""
    imported = import_darknet(path, path.with_suffix(".weights"), ())
    return TorchBackend(imported.detector, imported.metadata)


def _net(metadata: ModelMetadata) -> Section:
    height, width = metadata.input_size
    options = {"batch": 1, "subdivisions": 1, "width": width, "height": height, "channels": 3}
    return Section("net", 0, "", {name: str(value) for name, value in options.items()})


def _sections_of(network: Darknet, metadata: ModelMetadata) -> list[Section]:
    """The network's own sections, with the metadata's classes, anchors and input size."""
    net, *layers = parse(network.configuration, network.file)
    height, width = metadata.input_size
    sections = [_with(net, width=str(width), height=str(height)), *layers]
    for number, level in enumerate(network.levels):
        filters = len(metadata.anchors[number]) * (5 + len(metadata.class_names))
        convolution, yolo = level.layer + 1, level.layer + 2  # [net] is before layer 0
        sections[convolution] = _with(sections[convolution], filters=str(filters))
        sections[yolo] = _with(sections[yolo], **yolo_options(metadata, number))
    return sections


def _with(section: Section, **options: str) -> Section:
    return dataclasses.replace(section, options={**section.options, **options})


@torch.no_grad()
def _rebuild(configuration: str, tensors: Sequence[Sequence[Tensor]]) -> Detector:
    """The detector of a configuration, with these weights: per convolution, in the order of the file."""
    detector = build_darknet(configuration)
    for (_, layer), values in zip(layers_in_order(detector), tensors, strict=True):
        for place, value in zip(tensors_of(layer), values, strict=True):
            place.copy_(value)
    return detector
