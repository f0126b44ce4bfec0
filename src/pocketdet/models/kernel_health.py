"""Depthwise kernels that died in training: they cost time and compute nothing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pocketdet.models.blocks import ConvBlock

# Of a standard deviation of the batch norm, or of its scale. A healthy kernel moves its output by about 1.
DEAD_BELOW = 0.01
FARTHEST = 6  # standard deviations from the mean that a batch norm's output is believed to reach
SHARE_OF_CONCERN = 0.01  # of all kernels


class KernelHealth(NamedTuple):
    """How many kernels of one depthwise convolution are dead, each counted under the first cause that applies."""

    layer: str  # path of its module
    kernels: int
    dead: int  # the sum of what follows
    weights: int  # all weights near zero
    scale: int  # the scale of its batch norm is near zero
    input: int  # its output did not vary in training although its weights could: it gets no input
    bias: int  # the bias of its batch norm holds its activation at one end, 6 standard deviations away from leaving it
    pictures: int = 0  # none of these, and yet its output is constant on all positions of all pictures given


CAUSES = KernelHealth._fields[3:]


def kernel_health(network: nn.Module, constant: Mapping[str, Tensor] | None = None) -> list[KernelHealth]:
    """Every depthwise convolution that a batch norm follows, and its dead kernels.

    Args:
        network: With its weights.
        constant: Of each layer, ``(C,)``, whether a channel's output was constant on pictures; see ``activity``.
    """
    health = []
    for name, block in network.named_modules():
        if not isinstance(block, ConvBlock):
            continue
        layer, norm = block[0], block[1]
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and is_depthwise(layer):
            causes = _causes(block, layer, norm)
            if constant is not None:
                causes.append(constant[f"{name}.0"].to(layer.weight.device))
            health.append(_count(f"{name}.0", causes))
    return health


def count_dead(network: nn.Module) -> int:
    """Dead kernels of all depthwise layers, by weights and batch norms."""
    return sum(layer.dead for layer in kernel_health(network))


def is_depthwise(layer: nn.Conv2d) -> bool:
    """One kernel a channel."""
    return layer.groups > 1 and layer.groups == layer.in_channels


def describe_health(health: Sequence[KernelHealth]) -> list[str]:
    """The dead kernels of every layer that has some, why, and what to do: a line each; nothing without layers."""
    if not health:
        return []
    total, kernels = (sum(getattr(layer, name) for layer in health) for name in ("dead", "kernels"))
    lines = [f"dead depthwise kernels: {total} of {kernels}"]
    for layer in health:
        causes = ", ".join(f"{name} {getattr(layer, name)}" for name in CAUSES if getattr(layer, name))
        lines += [f"  {layer.layer}: {layer.dead} of {layer.kernels} ({causes})"] if layer.dead else []
    return [*lines, *(f"- {line}" for line in advise(health))]


def advise(health: Sequence[KernelHealth]) -> list[str]:
    """What to do, a sentence a line; nothing where few kernels are dead."""
    kernels = sum(layer.kernels for layer in health)
    sums = {name: sum(getattr(layer, name) for layer in health) for name in ("dead", *CAUSES)}
    if sums["dead"] <= SHARE_OF_CONCERN * kernels:
        few = f"{sums['dead']} of {kernels} are few, and do no harm"
        return [f"{few}; --drop-dead FILE saves what they cost"] if sums["dead"] else []
    lines = []
    if sums["weights"]:
        lines.append("weights: weight decay has won over the gradient; train without it, by --weight-decay 0")
    if sums["scale"] or sums["bias"]:
        lines.append(
            "scale, bias: steps were too large; lower --learning-rate (or --backbone-learning-rate), raise "
            "--warmup-epochs, and with small batches keep the start weights' statistics by --freeze-batch-norm"
        )
    if sums["input"]:
        lines.append(
            "input: the layer before it is silent; where dead_kernels is as high after the first epoch, the start "
            "weights brought it along and no setting revives it: choose others, or mobilenet_v3_small, whose have none"
        )
    if sums["pictures"]:
        lines.append("pictures: no cause lies in the kernel; show more kinds of pictures before you call it dead")
    if sums["dead"] > sums["pictures"]:
        lines.append("--drop-dead FILE writes the detector without those that are constant on any picture")
    return lines


def _causes(block: ConvBlock, layer: nn.Conv2d, norm: nn.BatchNorm2d) -> list[Tensor]:
    """``(C,)`` flags for weights, scale, input and bias, of which more than one may be set."""
    assert norm.running_var is not None
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    response = layer.weight.detach().double().abs().sum(dim=(1, 2, 3)) / deviation
    varied = norm.running_var.double().sqrt() / deviation
    scale, bias = norm.weight.detach().abs(), norm.bias.detach()
    low, high = activated(block, bias - FARTHEST * scale, bias + FARTHEST * scale)
    return [response < DEAD_BELOW, scale < DEAD_BELOW, varied < DEAD_BELOW, high - low < DEAD_BELOW]


def _count(name: str, causes: Sequence[Tensor]) -> KernelHealth:
    counts, seen = [], torch.zeros_like(causes[0])
    for cause in causes:
        counts.append(int((cause & ~seen).sum()))
        seen = seen | cause
    return KernelHealth(name, len(seen), int(seen.sum()), *counts)


def activated(block: ConvBlock, bottom: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """The range of a block's activation over a range of its batch norm's output.

    All activations rise, but for h-swish, which falls to -0.375 at x = -1.5 first.
    """
    if len(block) < 3:
        return bottom, top
    ends = block[2](torch.stack((bottom, top)))
    low, high = ends.amin(dim=0), ends.amax(dim=0)
    if isinstance(block[2], nn.Hardswish):
        low = torch.where((bottom < -1.5) & (top > -1.5), -0.375, low)
    return low, high
