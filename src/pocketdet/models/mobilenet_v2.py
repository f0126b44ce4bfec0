"""MobileNet V2: arXiv 1801.04381, Table 2."""

from typing import NamedTuple

from torch import nn

from pocketdet.models.backbone import Backbone, Classifier
from pocketdet.models.blocks import ConvBlock, Form, InvertedResidual, make_divisible


class Stage(NamedTuple):
    """One row of Table 2; only the first block has the stride."""

    expansion: int  # t
    channels: int  # c
    repeats: int  # n
    stride: int  # s


# fmt: off
STEM_CHANNELS = 32
STAGES = (
    #     t    c  n  s
    Stage(1,  16, 1, 1),
    Stage(6,  24, 2, 2),
    Stage(6,  32, 3, 2),  # P3: stride 8
    Stage(6,  64, 4, 2),
    Stage(6,  96, 3, 1),  # P4: stride 16
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),  # P5: stride 32
)
LAST_CHANNELS = 1280
# fmt: on
PYRAMID = (2, 4, 6)  # rows whose output goes to the neck


def mobilenet_v2(width: float = 1.0, padding: str = "symmetric") -> Backbone:
    """MobileNet V2 up to P5; ``width`` multiplies the channels (§5)."""
    pyramid = [sum(stage.repeats for stage in STAGES[: row + 1]) for row in PYRAMID]  # the stem is block 0
    channels = [make_divisible(STAGES[row].channels * width) for row in PYRAMID]
    return Backbone(_features(width, padding), pyramid, channels, padding)


def mobilenet_v2_classifier(width: float = 1.0, padding: str = "symmetric", num_classes: int = 1000) -> Classifier:
    """All rows of Table 2; the last convolution is never narrower than 1280 (§6.1)."""
    last_channels = make_divisible(LAST_CHANNELS * max(1.0, width))
    last = ConvBlock(make_divisible(STAGES[-1].channels * width), last_channels, 1, Form(padding))
    return Classifier(
        [*_features(width, padding), last], nn.Sequential(nn.Dropout(0.2), nn.Linear(last_channels, num_classes))
    )


def _features(width: float, padding: str) -> list[nn.Module]:
    form = Form(padding)
    channels = make_divisible(STEM_CHANNELS * width)
    features: list[nn.Module] = [ConvBlock(3, channels, 3, form, stride=2)]
    for stage in STAGES:
        out_channels = make_divisible(stage.channels * width)
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            features.append(InvertedResidual(channels, out_channels, stage.expansion, form, stride))
            channels = out_channels
    return features
