"""Darknet's layers as modules, each made from its section of the configuration."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketdet.models.blocks import Leaky
from pocketdet.models.darknet.configuration import Section

# The last two are not of the original darknet but of its forks for MobileNet V3; dashes and underscores do not count.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": Leaky,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "swish": nn.SiLU,
    "logistic": nn.Sigmoid,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
}
ALIASES = {"hswish": "hardswish", "hsigmoid": "hardsigmoid"}


class Map(NamedTuple):
    """What a layer gives."""

    channels: int
    stride: int  # input pixels per cell; 0 where one cell holds the whole input


class Layer(NamedTuple):
    """One layer of the network."""

    module: nn.Module
    sources: tuple[int, ...]  # layers that it reads, from 0; -1 is the image
    output: Map


class Convolution(nn.Sequential):
    """Convolution, batch norm or bias, activation."""


class Shortcut(nn.Module):
    """The sum of its inputs."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, *inputs: Tensor) -> Tensor:
        """``(B, C, H, W)`` each, to the same shape."""
        total = inputs[0]
        for other in inputs[1:]:
            total = total + other
        activated: Tensor = self.activation(total)
        return activated


class Route(nn.Module):
    """Its inputs one behind another, or of each only one of several equal groups of channels."""

    def __init__(self, groups: int, group_id: int) -> None:
        super().__init__()
        self.groups, self.group_id = groups, group_id

    def forward(self, *inputs: Tensor) -> Tensor:
        """``(B, C, H, W)`` with any channels, to ``(B, sum of them / groups, H, W)``."""
        parts = [x.chunk(self.groups, dim=1)[self.group_id] for x in inputs] if self.groups > 1 else inputs
        return torch.cat(tuple(parts), dim=1) if len(parts) > 1 else parts[0]


class MaxPool(nn.Module):
    """Darknet's max pool: ``padding`` is the sum of both sides, and what is odd of it lies at the right and bottom."""

    def __init__(self, size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.before, self.after = padding // 2, padding - padding // 2
        # Within a pool; what lies beyond the last whole window takes no part.
        self.is_even = self.before == self.after and self.before <= size // 2

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, (H + padding - size) / stride + 1, ...)``."""
        if self.is_even:
            return F.max_pool2d(x, self.size, self.stride, self.before)
        fits = self.size == self.stride == 2 and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
        if not fits:
            x = F.pad(x, (self.before, self.after, self.before, self.after), value=float("-inf"))
        return F.max_pool2d(x, self.size, self.stride)


class ScaleChannels(nn.Module):
    """The second input weighed by the first: the last step of squeeze-and-excitation (1709.01507 §3)."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, weights: Tensor, x: Tensor) -> Tensor:
        """``(B, C, 1, 1)`` and ``(B, C, H, W)``, or ``(B, 1, H, W)`` and ``(B, C, H, W)``."""
        activated: Tensor = self.activation(x * weights)
        return activated


def build_layer(section: Section, maps: Sequence[Map]) -> Layer:
    """One layer.

    Args:
        section: That describes it.
        maps: What the layers before it give; the image comes last where there is none.

    Raises:
        ModelFileError: A layer or an option that is not supported, or that does not fit the layers before it.
    """
    if section.kind not in BUILDERS:
        raise section.error(f"is no layer that is supported; supported are {', '.join(BUILDERS)} and yolo")
    build, known = BUILDERS[section.kind]
    for name, value in section.options.items():
        if name not in (*known, *TRAINING_ONLY) and value not in ("0", "none"):
            raise section.error(f'option "{name}" is not supported', name)
    return build(section, maps)


def activation_of(section: Section, default: str) -> nn.Module:
    """The module that a section's ``activation`` names."""
    name = section.text("activation", default)
    plain = name.replace("-", "").replace("_", "")
    plain = ALIASES.get(plain, plain)
    if plain not in ACTIVATIONS:
        raise section.error(
            f'activation "{name}" is not supported; choose one of {", ".join(ACTIVATIONS)}', "activation"
        )
    return ACTIVATIONS[plain]()


def kernel_of(section: Section) -> tuple[int, int, int]:
    """Kernel, stride and padding of a convolution."""
    size, stride = section.integer("size", 1), section.integer("stride", 1)
    dilation = section.integer("dilation", 1)
    padding = size // 2 * dilation if section.integer("pad", 0) else section.integer("padding", 0)
    if size < 1 or stride < 1 or dilation < 1 or padding < 0:
        raise section.error(f"has size {size}, stride {stride} and padding {padding}; expected at least 1, 1 and 0")
    return size, stride, padding


def _convolutional(section: Section, maps: Sequence[Map]) -> Layer:
    size, stride, padding = kernel_of(section)
    filters, groups = section.integer("filters", 1), section.integer("groups", 1)
    before = _at(maps, -1)
    if groups < 1 or before.channels % groups or filters % groups:
        raise section.error(
            f"has {groups} groups, which do not divide {before.channels} channels and {filters} filters"
        )
    has_norm = bool(section.integer("batch_normalize", 0))
    layers: list[nn.Module] = [
        nn.Conv2d(
            before.channels, filters, size, stride, padding, section.integer("dilation", 1), groups, bias=not has_norm
        )
    ]
    if has_norm:
        layers.append(nn.BatchNorm2d(filters))  # eps 1e-5, as darknet's kernels have it
    activation = activation_of(section, "logistic")
    if not isinstance(activation, nn.Identity):
        layers.append(activation)
    return Layer(Convolution(*layers), (len(maps) - 1,), Map(filters, before.stride * stride))


def _shortcut(section: Section, maps: Sequence[Map]) -> Layer:
    sources = (len(maps) - 1, *(_index(section, number, maps, "from") for number in section.integers("from")))
    inputs = {maps[source] for source in sources}
    if len(inputs) > 1:
        raise section.error(f"adds maps of different sizes: {_listed(maps, sources)}", "from")
    return Layer(Shortcut(activation_of(section, "linear")), sources, inputs.pop())


def _route(section: Section, maps: Sequence[Map]) -> Layer:
    sources = tuple(_index(section, number, maps, "layers") for number in section.integers("layers"))
    groups, group_id = section.integer("groups", 1), section.integer("group_id", 0)
    if len({maps[source].stride for source in sources}) > 1:
        raise section.error(f"joins maps of different sizes: {_listed(maps, sources)}", "layers")
    if groups < 1 or not 0 <= group_id < groups or any(maps[source].channels % groups for source in sources):
        raise section.error(f"wants group {group_id} of {groups}; the maps are {_listed(maps, sources)}", "groups")
    channels = sum(maps[source].channels for source in sources) // groups
    return Layer(Route(groups, group_id), sources, Map(channels, maps[sources[0]].stride))


def _maxpool(section: Section, maps: Sequence[Map]) -> Layer:
    stride = section.integer("stride", 1)
    size = section.integer("size", stride)
    pool = MaxPool(size, stride, section.integer("padding", size - 1))
    before = _at(maps, -1)
    return Layer(pool, (len(maps) - 1,), Map(before.channels, before.stride * stride))


def _upsample(section: Section, maps: Sequence[Map]) -> Layer:
    stride, before = section.integer("stride", 2), _at(maps, -1)
    if stride < 1 or before.stride % stride or section.number("scale", 1.0) != 1:
        raise section.error(
            f"by {stride}, with scale {section.number('scale', 1.0):g}: expected a scale of 1, "
            f"and a map that was made at least so many times smaller"
        )
    return Layer(
        nn.Upsample(scale_factor=float(stride)), (len(maps) - 1,), Map(before.channels, before.stride // stride)
    )


def _dropout(section: Section, maps: Sequence[Map]) -> Layer:
    return Layer(nn.Dropout(section.number("probability", 0.2)), (len(maps) - 1,), _at(maps, -1))


def _avgpool(section: Section, maps: Sequence[Map]) -> Layer:
    return Layer(nn.AdaptiveAvgPool2d(1), (len(maps) - 1,), Map(_at(maps, -1).channels, 0))


def _scale_channels(section: Section, maps: Sequence[Map]) -> Layer:
    scaled = _index(section, section.integer("from"), maps, "from")
    sources = (len(maps) - 1, scaled)
    weights, before = (maps[source] for source in sources)
    has_fit = weights == (1, before.stride) if section.integer("scale_wh", 0) else weights == (before.channels, 0)
    if not has_fit:
        raise section.error(f"cannot weigh the second of {_listed(maps, sources)} by the first", "from")
    return Layer(ScaleChannels(activation_of(section, "linear")), sources, before)


def _at(maps: Sequence[Map], index: int) -> Map:
    return maps[index] if maps else Map(3, 1)


def _index(section: Section, number: int, maps: Sequence[Map], option: str) -> int:
    """A layer's number, from 0, of one that counts from the first layer or, negative, backwards from this one."""
    index = len(maps) + number if number < 0 else number
    if not 0 <= index < len(maps):
        raise section.error(f"reads layer {number}, which is not before it; this is layer {len(maps)}", option)
    return index


def _listed(maps: Sequence[Map], sources: Sequence[int]) -> str:
    return ", ".join(
        f"layer {source} ({maps[source].channels} channels, stride {maps[source].stride})" for source in sources
    )


# Options that only darknet's own training reads.
TRAINING_ONLY = ("stopbackward", "stop_backward", "dontload", "dontloadscales", "train_only_bn", "learning_rate")
BUILDERS: dict[str, tuple[Callable[[Section, Sequence[Map]], Layer], tuple[str, ...]]] = {
    "convolutional": (
        _convolutional,
        ("batch_normalize", "filters", "size", "stride", "pad", "padding", "groups", "dilation", "activation"),
    ),
    "shortcut": (_shortcut, ("from", "activation")),
    "route": (_route, ("layers", "groups", "group_id")),
    "maxpool": (_maxpool, ("size", "stride", "padding")),
    "upsample": (_upsample, ("stride", "scale")),
    "dropout": (_dropout, ("probability",)),
    "avgpool": (_avgpool, ()),
    "scale_channels": (_scale_channels, ("from", "scale_wh", "activation")),
}
