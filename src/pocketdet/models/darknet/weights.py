"""Darknet's weight files: a short header, and then float32 numbers, layer by layer."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketdet.errors import ModelFileError
from pocketdet.models.darknet.layers import Convolution
from pocketdet.models.darknet.network import Darknet
from pocketdet.models.detector import Detector
from pocketdet.models.head import LevelHead

VERSION = (0, 2, 5)  # that is written; from 0.2 on the number of pictures seen has 8 bytes


def read_weights(detector: Detector, path: Path) -> tuple[str, ...]:
    """Fill a detector that ``build_darknet`` made.

    Args:
        detector: Changed in place.
        path: A ``.weights`` file, or one cut at the end of a layer, as darknet's files of start weights are.

    Returns:
        The layers that the file does not reach, by the number and the line of their section; they stay as they are.

    Raises:
        ModelFileError: Missing, longer than the network, or ends within a layer.
    """
    numbers = _read_numbers(path)
    place, absent = 0, []
    for name, layer in layers_in_order(detector):
        size = sum(tensor.numel() for tensor in tensors_of(layer))
        if place == len(numbers):
            absent.append(name)
        elif place + size > len(numbers):
            raise ModelFileError(
                f"{path}: ends within {name}: {len(numbers):,} numbers, and the network needs "
                f"{_count(detector):,}; the file is cut or of another configuration (is its number of classes right?)"
            )
        else:
            _fill(layer, numbers[place : place + size])
            place += size
    if place < len(numbers):
        raise ModelFileError(
            f"{path}: holds {len(numbers):,} numbers, and the network needs only {place:,}; "
            "it is of another configuration"
        )
    return tuple(absent)


def write_weights(detector: Detector, path: Path) -> None:
    """Write what ``read_weights`` reads.

    Args:
        detector: That ``build_darknet`` made.
        path: The file; its folder exists.
    """
    with path.open("wb") as file:
        file.write(struct.pack("<iiiQ", *VERSION, 0))
        for _, layer in layers_in_order(detector):
            if isinstance(layer, LevelHead):
                layer = _fused(layer)
            for tensor in tensors_of(layer):
                file.write(tensor.detach().cpu().float().contiguous().numpy().tobytes())


def _read_numbers(path: Path) -> NDArray[np.float32]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error
    if len(content) < 16:
        raise ModelFileError(f"{path}: {len(content)} bytes; expected darknet's header and weights: get it again")
    major, minor, _ = struct.unpack_from("<iii", content)
    start = 20 if 10 * major + minor >= 2 else 16
    if not (0 <= major < 1000 and 0 <= minor < 1000) or (len(content) - start) % 4:
        raise ModelFileError(
            f"{path}: no darknet weights: version {major}.{minor}, and {len(content)} bytes, which are no whole number "
            "of float32; it is cut or of another kind"
        )
    return np.frombuffer(content, "<f4", offset=start)


def layers_in_order(detector: Detector) -> Iterator[tuple[str, nn.Module]]:
    """Convolutions and heads in the order of the configuration, each by the place of its section."""
    network = detector.backbone
    assert isinstance(network, Darknet)
    heads = {level.layer: head for level, head in zip(network.levels, detector.head.levels, strict=True)}
    for number, (layer, section) in enumerate(zip(network.layers, network.sections, strict=True)):
        if isinstance(layer, Convolution) or number in heads:
            yield f"layer {number} (line {section.line})", heads.get(number, layer)


def tensors_of(layer: nn.Module) -> list[Tensor]:
    """Of a layer in the order of the file: biases, then what else its batch norm has, then weights."""
    if isinstance(layer, LevelHead):
        outputs = (layer.boxes, layer.objectness, layer.classes)
        return [part for output in outputs for part in (output.bias, output.weight) if part is not None]
    assert isinstance(layer, nn.Sequential)
    convolution, *rest = layer
    assert isinstance(convolution, nn.Conv2d)
    if convolution.bias is not None:
        return [convolution.bias, convolution.weight]
    norm = rest[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return [norm.bias, norm.weight, norm.running_mean, norm.running_var, convolution.weight]


@torch.no_grad()
def _fill(layer: nn.Module, numbers: NDArray[np.float32]) -> None:
    if isinstance(layer, LevelHead):
        fused = _fused(layer)
        _fill(fused, numbers)
        _split(fused, layer)
        return
    place = 0
    for tensor in tensors_of(layer):
        part = numbers[place : place + tensor.numel()]
        tensor.copy_(torch.from_numpy(part.astype(np.float32)).view_as(tensor))
        place += tensor.numel()


def _outputs(head: LevelHead) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
    return head.boxes, head.objectness, head.classes


@torch.no_grad()
def _fused(head: LevelHead) -> Convolution:
    """One convolution, as darknet has it: of one anchor box, objectness and classes, then of the next."""
    outputs = _outputs(head)
    first = outputs[0]
    channels, anchors = sum(output.out_channels for output in outputs), head.objectness.out_channels
    kernel = first.kernel_size[0]
    fused = nn.Conv2d(first.in_channels, channels, kernel, padding=kernel // 2)
    for name in ("weight", "bias"):
        parts = [getattr(output, name).unflatten(0, (anchors, -1)) for output in outputs]
        getattr(fused, name).copy_(torch.cat(parts, dim=1).flatten(0, 1))
    return Convolution(fused)


@torch.no_grad()
def _split(fused: Convolution, head: LevelHead) -> None:
    """The other way round."""
    outputs, anchors = _outputs(head), head.objectness.out_channels
    counts = [output.out_channels // anchors for output in outputs]
    for name in ("weight", "bias"):
        parts = getattr(fused[0], name).unflatten(0, (anchors, -1)).split(counts, dim=1)
        for output, part in zip(outputs, parts, strict=True):
            getattr(output, name).copy_(part.flatten(0, 1))


def _count(detector: Detector) -> int:
    return sum(tensor.numel() for _, layer in layers_in_order(detector) for tensor in tensors_of(layer))
