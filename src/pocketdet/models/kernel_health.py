"""Depthwise kernels that died in training: they cost time and compute nothing."""

from typing import NamedTuple

from torch import nn

DEAD_BELOW = 0.01  # of the largest weight of the layer; batch norm makes the absolute size meaningless


class KernelHealth(NamedTuple):
    """How many kernels of one depthwise convolution are dead."""

    layer: str  # path of its module
    kernels: int
    dead: int  # all weights near zero


def kernel_health(network: nn.Module) -> list[KernelHealth]:
    """Every depthwise layer and its kernels without any weight over 1 % of the layer's largest."""
    health = []
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and is_depthwise(layer):
            largest = layer.weight.detach().abs().amax(dim=(1, 2, 3))  # of each kernel
            dead = int((largest <= DEAD_BELOW * largest.max()).sum())
            health.append(KernelHealth(name, layer.out_channels, dead))
    return health


def is_depthwise(layer: nn.Conv2d) -> bool:
    """One kernel a channel."""
    return layer.groups > 1 and layer.groups == layer.in_channels
