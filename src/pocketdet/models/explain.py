"""The paper's table of a network, computed: shapes, parameters and multiply-adds of every block."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pocketdet.models.backbone import Classifier, check_size
from pocketdet.models.blocks import (
    ACTIVATIONS,
    Bneck,
    ConvBlock,
    DepthwiseSeparable,
    InvertedResidual,
    SqueezeExcitation,
)
from pocketdet.models.darknet.importing import read_configuration
from pocketdet.models.darknet.layers import Convolution
from pocketdet.models.detector import Detector, build_darknet, build_detector
from pocketdet.models.kernel_health import KernelHealth, advise, describe_health, is_depthwise, kernel_health
from pocketdet.models.neck import SpatialPyramidPooling

BLOCKS = (
    ConvBlock,
    DepthwiseSeparable,
    InvertedResidual,
    Bneck,
    SpatialPyramidPooling,
    Convolution,
    nn.Conv2d,
    nn.Linear,
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One block.

    Args:
        part: backbone, neck or head (features or classifier of a classification network).
        name: Path of the block's module.
        input: (height, width, channels).
        operator: What the papers call it, with its kernel.
        expansion: Channels inside; ``None`` where nothing is expanded.
        out_channels: Of the output.
        has_se: Squeeze-and-excitation.
        activation: RE, RE6, HS, MISH, LEAKY, SWISH, LOGISTIC, or empty for a linear one.
        stride: Input pixels per output pixel.
        parameters: Learned numbers.
        multiply_adds: For one image; convolutions and linear layers.
        plain_parameters: With a plain convolution in place of each depthwise and pointwise pair.
        plain_multiply_adds: Likewise.
    """

    part: str
    name: str
    input: tuple[int, int, int]
    operator: str
    expansion: int | None
    out_channels: int
    has_se: bool
    activation: str
    stride: int
    parameters: int
    multiply_adds: int
    plain_parameters: int
    plain_multiply_adds: int


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A network, block by block.

    Args:
        title: What was explained.
        rows: In the order of the network's parts.
        size: (height, width) of the input.
        health: Of the depthwise layers, where a network with its weights was explained and not a name.
    """

    title: str
    rows: tuple[Row, ...]
    size: tuple[int, int]
    health: tuple[KernelHealth, ...] = ()

    def totals(self) -> dict[str, int]:
        """Sums over the rows."""
        names = ("parameters", "multiply_adds", "plain_parameters", "plain_multiply_adds")
        return {name: sum(getattr(row, name) for row in self.rows) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "title": self.title,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "totals": self.totals(),
            "kernel_health": [layer._asdict() for layer in self.health],
            "advice": advise(self.health),
        }

    def to_text(self) -> str:
        """A table for people."""
        heads = ("part", "input", "operator", "exp", "out", "SE", "NL", "s", "parameters", "multiply-adds", "plain")
        lines = [heads, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
        text = [
            "  ".join(
                cell.ljust(width) if n in (0, 2) else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join(
            [self.title, "", *(line.rstrip() for line in text), "", self._summary(), *describe_health(self.health)]
        )

    def _summary(self) -> str:
        total = self.totals()
        return (
            f"total: {total['parameters']:,} parameters, {total['multiply_adds'] / 1e9:.2f} G multiply-adds\n"
            f"with plain convolutions: {total['plain_parameters']:,} parameters, "
            f"{total['plain_multiply_adds'] / 1e9:.2f} G multiply-adds "
            f"({total['plain_multiply_adds'] / total['multiply_adds']:.1f} times as many)"
        )


class _Measured(NamedTuple):
    """What a forward pass showed of a module."""

    input: tuple[int, ...]
    output: tuple[int, ...]


def explain(
    model: str | Detector | Classifier,
    size: tuple[int, int] = (416, 416),
    width: float = 1.0,
    neck_width: float = 1.0,
    num_classes: int = 80,
    neck_activation: str | None = None,
    neck_convolution: str | None = None,
    constant: Mapping[str, Tensor] | None = None,
) -> Explanation:
    """Explain a detector or a classification network, block by block.

    Args:
        model: A key of ``BACKBONES``, for a detector on it, a darknet ``.cfg`` file, or a network.
        size: (height, width) of the input, multiples of 32.
        width: Of the backbone, where ``model`` is a name.
        neck_width: Of neck and head, where ``model`` is a name.
        num_classes: K, where ``model`` is a name.
        neck_activation: Of neck and head, where ``model`` is a name; by default the backbone's.
        neck_convolution: Likewise.
        constant: Channels that were constant on pictures, by layer, as ``find_constant`` gives them.

    Raises:
        SettingsError: An unknown name, or a number out of range.
        ModelFileError: The ``.cfg`` file cannot be read.
    """
    check_size(*size)
    if isinstance(model, str) and model.endswith(".cfg"):
        network: nn.Module = build_darknet(read_configuration(Path(model)), file=model)
        title = model
    elif isinstance(model, str):
        network = build_detector(
            model,
            num_classes,
            width,
            neck_width,
            neck_activation=neck_activation,
            neck_convolution=neck_convolution,
        )
        title = f"{model}, width {width:g}, neck width {neck_width:g}, {num_classes} classes"
    else:
        network, title = model, type(model).__name__.lower()
    measured = _measure(network, size)
    rows = tuple(_row(name, block, measured) for name, block in _blocks(network))
    health = () if isinstance(model, str) else tuple(kernel_health(network, constant))
    return Explanation(f"{title}, {size[0]} x {size[1]} pixels", rows, size, health)


def count_multiply_adds(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of all convolutions and linear layers for one image of (height, width) pixels."""
    measured = _measure(network, size)
    return sum(_multiply_adds(layer, measured[name]) for name, layer in network.named_modules() if name in measured)


def _measure(network: nn.Module, size: tuple[int, int]) -> dict[str, _Measured]:
    """Input and output shapes of all blocks and layers, from a pass that computes nothing (meta device)."""
    network = copy.deepcopy(network).to("meta").eval()
    measured: dict[str, _Measured] = {}

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            measured[name] = _Measured(tuple(inputs[0].shape), tuple(output.shape))

        module.register_forward_hook(hook)

    for name, module in network.named_modules():
        if isinstance(module, BLOCKS):
            watch(name, module)
    with torch.inference_mode():
        network(torch.empty(1, 3, *size, device="meta"))
    return measured


def _blocks(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost blocks."""
    for name, child in module.named_children():
        if isinstance(child, BLOCKS):
            yield prefix + name, child
        else:
            yield from _blocks(child, f"{prefix}{name}.")


def _row(name: str, block: nn.Module, measured: dict[str, _Measured]) -> Row:
    layers = [(f"{name}.{inner}".rstrip("."), layer) for inner, layer in block.named_modules()]
    counted = [(layer, measured[path]) for path, layer in layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
    parameters = sum(parameter.numel() for parameter in block.parameters())
    multiply_adds = sum(_multiply_adds(layer, shapes) for layer, shapes in counted)
    more_parameters, more_multiply_adds = _cost_of_plain(counted)
    shapes = measured[name]
    channels, *sides = shapes.input[1:]
    height, width = sides or (1, 1)
    return Row(
        part=name.partition(".")[0],
        name=name,
        input=(height, width, channels),
        operator=_operator(block),
        expansion=_expansion(block),
        out_channels=shapes.output[1],
        has_se=any(isinstance(layer, SqueezeExcitation) for layer in block.modules()),
        activation=_activation(block),
        stride=height // shapes.output[2] if sides else 1,
        parameters=parameters,
        multiply_adds=multiply_adds,
        plain_parameters=parameters + more_parameters,
        plain_multiply_adds=multiply_adds + more_multiply_adds,
    )


def _multiply_adds(layer: nn.Module, shapes: _Measured) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.weight.numel() * shapes.output[2] * shapes.output[3]
    return layer.weight.numel() if isinstance(layer, nn.Linear) else 0


def _cost_of_plain(counted: list[tuple[nn.Conv2d | nn.Linear, _Measured]]) -> tuple[int, int]:
    """Parameters and multiply-adds that a plain convolution costs more than the depthwise and pointwise pair."""
    pair = _pair([(layer, shapes) for layer, shapes in counted if isinstance(layer, nn.Conv2d)])
    if pair is None:
        return 0, 0
    depthwise, pointwise, cells = pair
    plain = depthwise.weight[0].numel() * pointwise.weight.numel()
    weights = plain - depthwise.weight.numel() - pointwise.weight.numel()
    batch_norm = 2 * depthwise.out_channels  # between the two, and gone with them
    return weights - batch_norm, weights * cells


def _pair(convolutions: list[tuple[nn.Conv2d, _Measured]]) -> tuple[nn.Conv2d, nn.Conv2d, int] | None:
    """A block's depthwise convolution, the pointwise one that ends the block, and the cells of their output."""
    depthwise = [layer for layer, _ in convolutions if is_depthwise(layer)]
    pointwise, shapes = convolutions[-1] if convolutions else (None, None)
    if not depthwise or pointwise is None or shapes is None:
        return None
    return depthwise[0], pointwise, shapes.output[2] * shapes.output[3]


def _operator(block: nn.Module) -> str:
    if isinstance(block, SpatialPyramidPooling):
        return "max pools 13, 9, 5"
    if isinstance(block, nn.Linear):
        return "linear"
    names = {InvertedResidual: "bottleneck", Bneck: "bneck", DepthwiseSeparable: "separable"}
    kernel = max(layer.kernel_size[0] for layer in block.modules() if isinstance(layer, nn.Conv2d))
    return f"{names.get(type(block), 'conv2d')} {kernel}x{kernel}"


def _expansion(block: nn.Module) -> int | None:
    if not isinstance(block, (InvertedResidual, Bneck)):
        return None
    return next(layer.out_channels for layer in block.modules() if isinstance(layer, nn.Conv2d))


def _activation(block: nn.Module) -> str:
    outside_se = (layer for name, layer in block.named_modules() if not name.endswith("activation"))
    kinds: dict[type, str] = {kind: name for name, kind in ACTIVATIONS.items()}
    kinds |= {nn.SiLU: "SWISH", nn.Sigmoid: "LOGISTIC"}  # of darknet's networks
    return next((kinds[type(layer)] for layer in outside_se if type(layer) in kinds), "")


def _cells(row: Row) -> tuple[str, ...]:
    height, width, channels = row.input
    return (
        row.part,
        f"{height}x{width}x{channels}",
        row.operator,
        "-" if row.expansion is None else str(row.expansion),
        str(row.out_channels),
        "x" if row.has_se else "-",
        row.activation or "-",
        str(row.stride),
        f"{row.parameters:,}",
        f"{row.multiply_adds:,}",
        f"{row.plain_multiply_adds:,}",
    )
