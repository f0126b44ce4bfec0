"""CSPDarknet53, YOLOv4's own backbone (2004.10934 §3.4), and the small one of YOLOv4-tiny (2011.08036).

Darknet-53 is 1804.02767, table 1; cutting each stage into two ways, of which one does without residual blocks, is
CSPNet, 1911.11929 §3. Both networks are here as they are in the configurations that the authors published.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pocketdet.models.backbone import Backbone, Classifier
from pocketdet.models.blocks import ConvBlock, Form, make_divisible


class Stage(NamedTuple):
    """A stage: a stride 2 convolution, then two ways that are joined."""

    channels: int  # of the stride 2 convolution and of the joined output
    part: int  # of each way
    hidden: int  # inside a residual block
    repeats: int  # of residual blocks


# fmt: off
STEM_CHANNELS = 32
STAGES = (
    #      out part  hid  n
    Stage(  64,  64,  32, 1),
    Stage( 128,  64,  64, 2),
    Stage( 256, 128, 128, 8),  # P3: stride 8
    Stage( 512, 256, 256, 8),  # P4: stride 16
    Stage(1024, 512, 512, 4),  # P5: stride 32
)
# fmt: on
PYRAMID = (3, 4, 5)  # blocks whose output goes to the neck; the stem is block 0

TINY_STEM = (32, 64)  # two stride 2 convolutions
TINY_STAGES = 3  # each doubles the channels, and a max pool behind it halves the map
TINY_LAST = 512
TINY_PYRAMID = (6, 8)  # P4: the last stage, before its pool; P5: the last convolution
TINY_STRIDES = (16, 32)


class Residual(nn.Module):
    """1x1 and 3x3 beside a shortcut: 1804.02767 §2.4."""

    def __init__(self, channels: int, hidden: int, form: Form) -> None:
        super().__init__()
        self.block = nn.Sequential(ConvBlock(channels, hidden, 1, form), ConvBlock(hidden, channels, 3, form))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        y: Tensor = self.block(x)
        return x + y


class CspStage(nn.Module):
    """A stage in two ways, 1911.11929 figure 3 (b): one through the residual blocks, one past them.

    Args:
        in_channels: Of the input.
        stage: Its channels.
        form: Padding, batch norm and activation.
    """

    def __init__(self, in_channels: int, stage: Stage, form: Form) -> None:
        super().__init__()
        self.down = ConvBlock(in_channels, stage.channels, 3, form, stride=2)
        self.past = ConvBlock(stage.channels, stage.part, 1, form)
        self.enter = ConvBlock(stage.channels, stage.part, 1, form)
        self.residuals = nn.Sequential(*(Residual(stage.part, stage.hidden, form) for _ in range(stage.repeats)))
        self.leave = ConvBlock(stage.part, stage.part, 1, form)
        self.join = ConvBlock(2 * stage.part, stage.channels, 1, form)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, H / 2, W / 2)``."""
        x = self.down(x)
        past = self.past(x)
        joined: Tensor = self.join(torch.cat((self.leave(self.residuals(self.enter(x))), past), dim=1))
        return joined


class TinyStage(nn.Module):
    """Two 3x3 convolutions on one half of the channels, their outputs mixed, and all of it beside the other way.

    Args:
        channels: Of the input; the output has twice as many, and its second half is what was computed last.
        form: Padding, batch norm and activation.
    """

    def __init__(self, channels: int, form: Form) -> None:
        super().__init__()
        self.whole = ConvBlock(channels, channels, 3, form)
        self.first = ConvBlock(channels // 2, channels // 2, 3, form)
        self.second = ConvBlock(channels // 2, channels // 2, 3, form)
        self.mix = ConvBlock(channels, channels, 1, form)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, 2 * C, H, W)``."""
        x = self.whole(x)
        first = self.first(x.chunk(2, dim=1)[1])
        mixed = self.mix(torch.cat((self.second(first), first), dim=1))
        return torch.cat((x, mixed), dim=1)


class TinyBackbone(Backbone):
    """Of P4's stage the neck reads only the second half."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` normalised images to P4 and P5."""
        p4, p5 = super().forward(images)
        return [p4.chunk(2, dim=1)[1], p5]


def cspdarknet53(width: float = 1.0, padding: str = "symmetric") -> Backbone:
    """CSPDarknet53 up to P5; ``width`` multiplies the channels."""
    channels = [make_divisible(STAGES[number - 1].channels * width) for number in PYRAMID]
    return Backbone(_features(width, padding), PYRAMID, channels, padding)


def cspdarknet53_classifier(width: float = 1.0, padding: str = "symmetric", num_classes: int = 1000) -> Classifier:
    """With the average and the classes behind P5."""
    return Classifier(_features(width, padding), nn.Linear(make_divisible(STAGES[-1].channels * width), num_classes))


def cspdarknet53_tiny(width: float = 1.0, padding: str = "symmetric") -> Backbone:
    """The backbone of YOLOv4-tiny, with P4 and P5; ``width`` multiplies the channels."""
    channels = (_tiny_stem(width)[1] * 2 ** (TINY_STAGES - 1), make_divisible(TINY_LAST * width))
    return TinyBackbone(_tiny_features(width, padding), TINY_PYRAMID, channels, padding, TINY_STRIDES)


def cspdarknet53_tiny_classifier(width: float = 1.0, padding: str = "symmetric", num_classes: int = 1000) -> Classifier:
    """With the average and the classes behind P5."""
    return Classifier(_tiny_features(width, padding), nn.Linear(make_divisible(TINY_LAST * width), num_classes))


def _features(width: float, padding: str) -> list[nn.Module]:
    form = Form(padding, activation="MISH")
    channels = make_divisible(STEM_CHANNELS * width)
    features: list[nn.Module] = [ConvBlock(3, channels, 3, form)]
    for row in STAGES:
        outer, part, hidden = (make_divisible(count * width) for count in row[:3])
        stage = Stage(outer, part, hidden, row.repeats)
        features.append(CspStage(channels, stage, form))
        channels = stage.channels
    return features


def _tiny_features(width: float, padding: str) -> list[nn.Module]:
    form = Form(padding, activation="LEAKY")
    channels = 3
    features: list[nn.Module] = []
    for count in _tiny_stem(width):
        features.append(ConvBlock(channels, count, 3, form, stride=2))
        channels = count
    for _ in range(TINY_STAGES):
        features += [TinyStage(channels, form), nn.MaxPool2d(2, stride=2)]
        channels *= 2
    features.append(ConvBlock(channels, make_divisible(TINY_LAST * width), 3, form))
    return features


def _tiny_stem(width: float) -> tuple[int, int]:
    """Channels of the two first convolutions; half of the second's are divisible by 8, too."""
    first, second = TINY_STEM
    return make_divisible(first * width), make_divisible(second * width, 16)
