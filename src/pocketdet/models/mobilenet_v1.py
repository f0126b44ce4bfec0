"""MobileNet V1: arXiv 1704.04861, Table 1."""

from typing import NamedTuple

from torch import nn

from pocketdet.models.backbone import Backbone, Classifier
from pocketdet.models.blocks import ConvBlock, DepthwiseSeparable, Form, make_divisible


class Pair(NamedTuple):
    """Two rows of Table 1: "Conv dw / s" and the "Conv / s1" behind it."""

    in_channels: int
    out_channels: int
    stride: int


# fmt: off
STEM_CHANNELS = 32  # Conv / s2, 3 x 3 x 3 x 32
PAIRS = (
    #      in   out  s
    Pair(  32,   64, 1),
    Pair(  64,  128, 2),
    Pair( 128,  128, 1),
    Pair( 128,  256, 2),
    Pair( 256,  256, 1),  # P3: stride 8
    Pair( 256,  512, 2),
    Pair( 512,  512, 1),  # 5 times
    Pair( 512,  512, 1),
    Pair( 512,  512, 1),
    Pair( 512,  512, 1),
    Pair( 512,  512, 1),  # P4: stride 16
    Pair( 512, 1024, 2),
    Pair(1024, 1024, 1),  # P5: stride 32; the table prints s2 here, its 7 x 7 sizes say s1
)
# fmt: on
PYRAMID = (5, 11, 13)  # blocks whose output goes to the neck; the stem is block 0


def mobilenet_v1(width: float = 1.0, padding: str = "symmetric") -> Backbone:
    """MobileNet V1 up to P5; ``width`` multiplies the channels (§3.3)."""
    channels = [make_divisible(pair.out_channels * width) for pair in PAIRS]
    return Backbone(_features(width, padding), PYRAMID, [channels[n - 1] for n in PYRAMID], padding)


def mobilenet_v1_classifier(width: float = 1.0, padding: str = "symmetric", num_classes: int = 1000) -> Classifier:
    """All rows of Table 1."""
    return Classifier(_features(width, padding), nn.Linear(make_divisible(PAIRS[-1].out_channels * width), num_classes))


def _features(width: float, padding: str) -> list[nn.Module]:
    form = Form(padding, eps=1e-3)  # batch norm as in Google's weights
    features: list[nn.Module] = [ConvBlock(3, make_divisible(STEM_CHANNELS * width), 3, form, stride=2)]
    for pair in PAIRS:
        in_channels, out_channels = (make_divisible(channels * width) for channels in pair[:2])
        features.append(DepthwiseSeparable(in_channels, out_channels, form, pair.stride))
    return features
