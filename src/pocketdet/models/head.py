"""The heads: YOLOv3 §2, boxes, objectness and classes apart."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pocketdet.models.blocks import DepthwiseSeparable, Form, initialise
from pocketdet.models.neck import FORMS

ANCHORS_PER_CELL = 3
OBJECTNESS_PRIOR = 0.01  # share of cells that hold an object, at the start of a training


class HeadOutput(NamedTuple):
    """Raw logits of one level; channels go anchor by anchor, as in ``core.decode.LevelLogits``."""

    boxes: Tensor  # (B, A * 4, H, W): tx, ty, tw, th of anchor 0, then of anchor 1
    objectness: Tensor  # (B, A, H, W)
    classes: Tensor  # (B, A * K, H, W): all K of anchor 0 first


class LevelHead(nn.Module):
    """The head of one level: a separable convolution and three outputs.

    Args:
        in_channels: Of the neck's output.
        num_classes: K.
        form: Padding, batch norm and activation.
    """

    def __init__(self, in_channels: int, num_classes: int, form: Form = FORMS["relu6"]) -> None:
        super().__init__()
        channels = 2 * in_channels
        self.separable = DepthwiseSeparable(in_channels, channels, form)
        self.boxes = nn.Conv2d(channels, ANCHORS_PER_CELL * 4, 1)
        self.objectness = nn.Conv2d(channels, ANCHORS_PER_CELL, 1)
        self.classes = nn.Conv2d(channels, ANCHORS_PER_CELL * num_classes, 1)
        initialise(self)
        for output in (self.boxes, self.objectness, self.classes):
            nn.init.normal_(output.weight, 0, 0.01)
        _fill_bias(self.objectness, OBJECTNESS_PRIOR)
        _fill_bias(self.classes, 1 / max(2, num_classes))

    def forward(self, x: Tensor) -> HeadOutput:
        """``(B, in_channels, H, W)`` to raw logits."""
        x = self.separable(x)
        return HeadOutput(self.boxes(x), self.objectness(x), self.classes(x))


class Head(nn.Module):
    """One ``LevelHead`` a level, P3 first; arguments as there, one number of channels a level."""

    def __init__(self, in_channels: Sequence[int], num_classes: int, form: Form = FORMS["relu6"]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(LevelHead(channels, num_classes, form) for channels in in_channels)

    def forward(self, levels: Sequence[Tensor]) -> list[HeadOutput]:
        """The neck's P3, P4, P5 to raw logits."""
        return [head(level) for head, level in zip(self.levels, levels, strict=True)]


def _fill_bias(output: nn.Conv2d, probability: float) -> None:
    """Start where the sigmoid says ``probability``: focal loss (1708.02002) §3.3."""
    assert output.bias is not None
    nn.init.constant_(output.bias, math.log(probability / (1 - probability)))
