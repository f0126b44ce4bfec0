"""Weights of timm's MobileNet V1, V2 and V3 under our names."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from pocketdet.models.detector import HALF, IMAGENET_MEAN, IMAGENET_STD, PerChannel
from pocketdet.models.roles import Role, find_roles, norm_of

MARK = "conv_stem.weight"
EPS, TENSORFLOW_EPS = 1e-5, 1e-3
# Layers of a block and their batch norms.
WITH_EXPAND = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
WITHOUT_EXPAND = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2"), "conv": ("conv", "bn1")}
SQUEEZE_EXCITATION = {"squeeze": "se.conv_reduce", "excite": "se.conv_expand"}


class TimmInfo(NamedTuple):
    """How a timm model was trained."""

    padding: str
    mean: PerChannel
    std: PerChannel
    eps: float


def read_timm_info(path: str | Path, keys: Iterable[str]) -> TimmInfo:
    """What the weights do not say stands in the ``config.json`` that timm's weights lie beside of on their hub.

    Args:
        path: The weights.
        keys: Their names.
    """
    try:
        config: dict[str, Any] = json.loads((Path(path).parent / "config.json").read_text(encoding="utf-8"))
        architecture, trained = str(config["architecture"]), config["pretrained_cfg"]
        is_tensorflow = architecture.startswith("tf_")
        mean, std = ((float(red), float(green), float(blue)) for red, green, blue in (trained["mean"], trained["std"]))
        return TimmInfo("same" if is_tensorflow else "symmetric", mean, std, TENSORFLOW_EPS if is_tensorflow else EPS)
    except (OSError, ValueError, KeyError, TypeError):
        is_v1 = not any("conv_pwl" in key for key in keys)
        mean, std = (HALF, HALF) if is_v1 else (IMAGENET_MEAN, IMAGENET_STD)
        return TimmInfo("symmetric", mean, std, EPS)


def from_timm(tensors: Mapping[str, Tensor], features: nn.Sequential) -> dict[str, Tensor]:
    """The same weights under our names; what is not of a backbone keeps its name.

    Args:
        tensors: By timm's names, in which ``blocks.S.R`` counts stages and repeats where ours counts blocks.
        features: Of the backbone or classification network that they shall fill.
    """
    names = dict(_layers(tensors, find_roles(features), len(features) - 1))
    split = {key: key.rpartition(".") for key in tensors}
    return {f"{names.get(split[key][0], split[key][0])}.{split[key][2]}": tensor for key, tensor in tensors.items()}


def _layers(tensors: Mapping[str, Tensor], roles: Mapping[Role, str], last: int) -> Iterator[tuple[str, str]]:
    """Their path of every layer that both have, and ours."""
    pairs: list[tuple[Role, str, str | None]] = [((0, "conv"), "conv_stem", "bn1")]
    if "bn2.weight" in tensors:  # V2; V3's conv_head has no batch norm and belongs to the classifier
        pairs.append(((last, "conv"), "conv_head", "bn2"))
    found = (re.match(r"blocks\.(\d+)\.(\d+)\.", key) for key in tensors)
    blocks = sorted({(int(place[1]), int(place[2])) for place in found if place})
    for number, (stage, repeat) in enumerate(blocks, start=1):
        block = f"blocks.{stage}.{repeat}"
        layers = WITH_EXPAND if f"{block}.conv_pwl.weight" in tensors else WITHOUT_EXPAND
        pairs += [((number, role), f"{block}.{conv}", f"{block}.{norm}") for role, (conv, norm) in layers.items()]
        pairs += [((number, role), f"{block}.{conv}", None) for role, conv in SQUEEZE_EXCITATION.items()]
    for role, convolution, norm in pairs:
        if role in roles and f"{convolution}.weight" in tensors:
            yield convolution, roles[role]
            if norm is not None:
                yield norm, norm_of(roles[role])
