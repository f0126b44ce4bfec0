"""The heads: YOLOv3 §2, boxes, objectness and classes apart."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor, nn

from pocketdet.models.blocks import Form, initialise, three_by_three
from pocketdet.models.neck import FORMS, Neck, TinyNeck

ANCHORS_PER_CELL = 3
NOTHING: Mapping[str, nn.Module] = MappingProxyType({})
OBJECTNESS_PRIOR = 0.01  # share of cells that hold an object, at the start of a training


class HeadOutput(NamedTuple):
    """Raw logits of one level; channels go anchor by anchor, as in ``core.decode.LevelLogits``."""

    boxes: Tensor  # (B, A * 4, H, W): tx, ty, tw, th of anchor 0, then of anchor 1
    objectness: Tensor  # (B, A, H, W)
    classes: Tensor  # (B, A * K, H, W): all K of anchor 0 first


class LevelHead(nn.Module):
    """The head of one level: three outputs.

    Args:
        in_channels: Of what the outputs read.
        num_classes: K.
        before: Blocks between the neck and the outputs, by their names in the files.
        num_anchors: A.
        kernel: Of the outputs.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        before: Mapping[str, nn.Module] = NOTHING,
        num_anchors: int = ANCHORS_PER_CELL,
        kernel: int = 1,
    ) -> None:
        super().__init__()
        self.before = tuple(before)
        for name, block in before.items():
            self.add_module(name, block)
        self.boxes, self.objectness, self.classes = (
            nn.Conv2d(in_channels, num_anchors * count, kernel, padding=kernel // 2) for count in (4, 1, num_classes)
        )
        initialise(self)
        for output in (self.boxes, self.objectness, self.classes):
            nn.init.normal_(output.weight, 0, 0.01)
        _fill_bias(self.objectness, OBJECTNESS_PRIOR)
        _fill_bias(self.classes, 1 / max(2, num_classes))

    def forward(self, x: Tensor) -> HeadOutput:
        """``(B, C, H, W)`` to raw logits."""
        x = self.features(x)
        return HeadOutput(self.boxes(x), self.objectness(x), self.classes(x))

    def features(self, x: Tensor) -> Tensor:
        """What the outputs read."""
        for name in self.before:
            x = getattr(self, name)(x)
        return x


class Head(nn.Module):
    """One ``LevelHead`` a level, P3 first."""

    def __init__(self, levels: Sequence[LevelHead]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def features(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The neck's P3, P4, P5 to what the outputs read."""
        heads = (head for head in self.levels if isinstance(head, LevelHead))
        return [head.features(level) for head, level in zip(heads, levels, strict=True)]

    def forward(self, levels: Sequence[Tensor]) -> list[HeadOutput]:
        """The neck's P3, P4, P5 to raw logits."""
        return [head(level) for head, level in zip(self.levels, levels, strict=True)]


def build_head(neck: Neck | TinyNeck, num_classes: int, form: Form = FORMS["relu6"]) -> Head:
    """YOLOv4's head: on each level a 3x3 convolution and the outputs.

    Args:
        neck: Says how many channels there are, before and behind the convolution.
        num_classes: K.
        form: Padding, batch norm, activation and kind of convolution, by which it is named in the files.
    """
    return Head(
        [
            LevelHead(channels, num_classes, {form.convolution: three_by_three(in_channels, channels, form)})
            for in_channels, channels in zip(neck.out_channels, neck.head_channels, strict=True)
        ]
    )


def _fill_bias(output: nn.Conv2d, probability: float) -> None:
    """Start where the sigmoid says ``probability``: focal loss (1708.02002) §3.3."""
    assert output.bias is not None
    nn.init.constant_(output.bias, math.log(probability / (1 - probability)))
