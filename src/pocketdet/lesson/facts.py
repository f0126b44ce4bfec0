"""The figures of the lesson, computed."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pocketdet.models.blocks import ConvBlock, DepthwiseSeparable, Form, InvertedResidual
from pocketdet.models.explain import count_multiply_adds

Floats = NDArray[np.float64]
Function = Callable[[Floats], Floats]
RANGE = 8.0  # of the inputs that are looked at
LEVELS = 256  # of 8 bits
DIMENSIONS = (2, 3, 5, 15, 30)  # as in V2's figure 1


class Cost(NamedTuple):
    """Of a block."""

    name: str
    weights: int  # of its convolutions
    multiply_adds: int


def convolution_costs(in_channels: int, out_channels: int, side: int = 52) -> tuple[Cost, Cost]:
    """Of a plain 3x3 convolution and of its depthwise separable form, on ``side`` x ``side`` cells."""
    form = Form()
    plain: nn.Module = ConvBlock(in_channels, out_channels, 3, form)
    separable: nn.Module = DepthwiseSeparable(in_channels, out_channels, form)
    first, second = (
        _cost(name, block, in_channels, side) for name, block in (("plain", plain), ("separable", separable))
    )
    return first, second


def residual_costs(side: int = 56) -> tuple[Cost, Cost]:
    """Of the original residual block (256 > 64 > 64 > 256, ResNet's) and of V2's inverted one (24 > 144 > 144 > 24)."""
    form = Form()
    original = nn.Sequential(
        ConvBlock(256, 64, 1, form),
        ConvBlock(64, 64, 3, form),
        ConvBlock(64, 256, 1, form._replace(activation="linear")),
    )
    inverted = InvertedResidual(24, 24, 6, form, stride=1)
    return _cost("original", original, 256, side), _cost("inverted", inverted, 24, side)


def _cost(name: str, block: nn.Module, in_channels: int, side: int) -> Cost:
    """By running it on a map of ``side`` x ``side`` cells, on the meta device."""
    weights = sum(layer.weight.numel() for layer in block.modules() if isinstance(layer, nn.Conv2d))
    # count_multiply_adds gives a network three channels; a projection without cost adapts them.
    network = nn.Sequential(_Widen(in_channels), block)
    return Cost(name, weights, count_multiply_adds(network, (side, side)))


class _Widen(nn.Module):
    """Three channels become as many as a block asks for, without a multiplication."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` to ``(B, channels, H, W)``."""
        return x[:, :1].expand(-1, self.channels, -1, -1)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x)."""
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(x: Floats) -> Floats:
    """ReLU6(x + 3) / 6: V3 §5.2."""
    return np.clip(x + 3, 0, 6) / 6


ACTIVATIONS: dict[str, Function] = {
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "sigmoid": sigmoid,
    "hard-sigmoid": hard_sigmoid,
    "swish": lambda x: x * sigmoid(x),
    "h-swish": lambda x: x * hard_sigmoid(x),
}


class QuantisedError(NamedTuple):
    """What 8 bits do to an activation."""

    name: str
    largest: float  # error over all inputs
    mean: float  # absolute error
    operations: int  # roundings: of input, of each step, of the output


def quantised_errors() -> list[QuantisedError]:
    """Each activation on inputs within ``RANGE``, with 8 bits between all of its steps, against itself in float.

    For the sigmoid an integer runtime has a table of its 256 values, each rounded to 8 bits.
    """
    x = np.linspace(-RANGE, RANGE, 20_001)
    q = _rounded
    steps: dict[str, tuple[Floats, int]] = {
        "ReLU6": (q(np.clip(q(x), 0, 6)), 2),
        "sigmoid": (q(sigmoid(q(x))), 2),
        "hard-sigmoid": (q(q(np.clip(q(x) + 3, 0, 6)) / 6), 3),
        "swish": (q(q(x) * q(sigmoid(q(x)))), 3),
        "h-swish": (q(q(x) * q(np.clip(q(x) + 3, 0, 6)) / 6), 3),
    }
    errors = {name: np.abs(value - ACTIVATIONS[name](x)) for name, (value, _) in steps.items()}
    return [QuantisedError(name, float(e.max()), float(e.mean()), steps[name][1]) for name, e in errors.items()]


def _rounded(values: Floats) -> Floats:
    """To one of ``LEVELS`` values, evenly spaced over their range, zero among them."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    step = (high - low) / (LEVELS - 1)
    zero = np.round(-low / step)
    return np.asarray((np.clip(np.round(values / step) + zero, 0, LEVELS - 1) - zero) * step)


def lost_by_relu(seed: int = 0) -> list[tuple[int, float]]:
    """V2 §3.2: a spiral in two dimensions, embedded in n, cut by ReLU, and brought back by least squares.

    Returns:
        Of each n the root mean square error, as a share of the spiral's size; the mean of 50 random embeddings.
    """
    random = np.random.default_rng(seed)
    angle = np.linspace(0.5, 3 * np.pi, 400)
    spiral = np.stack((angle * np.cos(angle), angle * np.sin(angle)), axis=1)
    spiral /= np.sqrt((spiral**2).mean())
    lost = []
    for dimensions in DIMENSIONS:
        errors = []
        for _ in range(50):
            cut = np.maximum(spiral @ random.normal(size=(2, dimensions)), 0)
            back = cut @ np.linalg.lstsq(cut, spiral, rcond=None)[0]
            errors.append(np.sqrt(((back - spiral) ** 2).mean()))
        lost.append((dimensions, float(np.mean(errors))))
    return lost
