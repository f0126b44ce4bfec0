import copy
import math

import pytest
import torch
from torch import nn

from pocketdet.models import BACKBONES
from pocketdet.models.backbones import build_backbone
from pocketdet.models.balance import balance_scales


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_balancing_changes_no_output_and_every_strange_scale(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, 0.5, "same").train()
    images = torch.rand(4, 3, 64, 64)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.bias is None]
    with torch.no_grad():
        for number, layer in enumerate(convolutions):
            layer.weight *= (0.01, 1.0, 30.0)[number % 3]
        for _ in range(30):
            backbone(images)
    backbone.eval()
    balanced = copy.deepcopy(backbone)
    assert balance_scales(balanced) > len(convolutions) / 2
    with torch.no_grad():
        levels, others = backbone(images), balanced(images)
    for before, after in zip(levels, others, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    for layer in balanced.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            size = float(layer.weight.detach().square().mean().sqrt()) * math.sqrt(layer.weight[0].numel())
            assert 0.7 < size < 1.42


def test_balancing_twice_is_balancing_once() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("mobilenet_v3_small", 0.5, "same")
    balance_scales(backbone)
    assert balance_scales(backbone) == 0
