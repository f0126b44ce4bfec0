"""The layers of a backbone by what they are for, so that weights with foreign names find their place."""

from torch import nn

from pocketdet.models.blocks import SqueezeExcitation

Role = tuple[int, str]  # index of the block, and one of: conv, expand, depthwise, squeeze, excite, project


def find_roles(features: nn.Sequential) -> dict[Role, str]:
    """Paths of a backbone's convolutions, in the order of the network.

    A block of one convolution has only ``conv``. Of the others, ``expand`` comes before ``depthwise`` and ``project``
    behind it; ``squeeze`` and ``excite`` are the two layers of squeeze-and-excitation.

    Args:
        features: Of a ``Backbone`` or ``Classifier``.

    Returns:
        Paths from the network on, such as ``features.0.0``.
    """
    roles: dict[Role, str] = {}
    for index, block in enumerate(features):
        layers = dict(block.named_modules(prefix=f"features.{index}"))
        inside_se = {f"{name}.{fc}" for name, layer in layers.items() if isinstance(layer, SqueezeExcitation)
                     for fc in ("fc1", "fc2")}  # fmt: skip
        has_depthwise = any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in layers.values())
        role = "expand" if has_depthwise else "conv"
        for name, layer in layers.items():
            if not isinstance(layer, nn.Conv2d):
                continue
            if name in inside_se:
                roles[index, "squeeze" if name.endswith("fc1") else "excite"] = name
                continue
            if layer.groups > 1:
                role = "depthwise"
            roles[index, role] = name
            if role == "depthwise":
                role = "project"
    return roles


def norm_of(convolution: str) -> str:
    """Path of the batch norm behind a convolution: the next in its sequence."""
    parent, _, number = convolution.rpartition(".")
    return f"{parent}.{int(number) + 1}"
