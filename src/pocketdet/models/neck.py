"""The necks: YOLOv4 §3.4, spatial pyramid pooling and PANet; and YOLOv4-tiny's."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketdet.models.blocks import ConvBlock, Form, initialise, make_divisible, three_by_three
from pocketdet.models.drop_block import DropBlock

# Of neck and head, by their names in the settings: forms of all their convolutions.
FORMS = {
    "relu6": Form("symmetric", activation="RE6"),
    "mish": Form("symmetric", activation="MISH"),
    "leaky": Form("symmetric", activation="LEAKY"),
}
CONVOLUTIONS = ("separable", "plain")


class SpatialPyramidPooling(nn.Module):
    """Max pools of 13, 9 and 5 cells beside the input: SPP as YOLOv4 §3.4 uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, 4 * C, H, W)``: pools 13, 9, 5, then the input.

        Two pools of 5 in a row look at 9 cells, three at 13.
        """
        five = self.pool(x)
        nine = self.pool(five)
        return torch.cat((self.pool(nine), nine, five, x), dim=1)


class Neck(nn.Module):
    """Top-down and bottom-up paths over P3, P4, P5: PANet §3.2 with concatenation.

    ``drop`` leaves blocks of P5, P4 and P3 out, each once, where the top-down path has made them and before head and
    bottom-up path see them. Not in the backbone, which has start weights; PP-YOLO (2007.12099), too, has it in its
    neck.

    Args:
        in_channels: Of the backbone's P3, P4, P5.
        width: Multiplies all channels, which stay divisible by 8.
        form: Padding, batch norm, activation and kind of convolution.
    """

    def __init__(self, in_channels: Sequence[int], width: float = 1.0, form: Form = FORMS["relu6"]) -> None:
        super().__init__()
        p3, p4, p5 = (make_divisible(channels * width) for channels in (128, 256, 512))
        in_p3, in_p4, in_p5 = in_channels
        self.out_channels = (p3, p4, p5)
        self.head_channels = (2 * p3, 2 * p4, 2 * p5)
        self.drop = DropBlock()

        self.before_pooling = _three(in_p5, p5, form)
        self.pooling = SpatialPyramidPooling()
        self.after_pooling = _three(4 * p5, p5, form)

        self.reduce_p5 = ConvBlock(p5, p4, 1, form)
        self.lateral_p4 = ConvBlock(in_p4, p4, 1, form)
        self.top_down_p4 = _five(2 * p4, p4, form)
        self.reduce_p4 = ConvBlock(p4, p3, 1, form)
        self.lateral_p3 = ConvBlock(in_p3, p3, 1, form)
        self.top_down_p3 = _five(2 * p3, p3, form)

        self.down_p3 = three_by_three(p3, p4, form, stride=2)
        self.bottom_up_p4 = _five(2 * p4, p4, form)
        self.down_p4 = three_by_three(p4, p5, form, stride=2)
        self.bottom_up_p5 = _five(2 * p5, p5, form)
        initialise(self)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The backbone's P3, P4, P5 to the head's, of the same sizes."""
        p3, p4, p5 = levels
        p5 = self.drop(self.after_pooling(self.pooling(self.before_pooling(p5))))
        p4 = self.drop(self.top_down_p4(torch.cat((self.lateral_p4(p4), _upsample(self.reduce_p5(p5))), dim=1)))
        p3 = self.drop(self.top_down_p3(torch.cat((self.lateral_p3(p3), _upsample(self.reduce_p4(p4))), dim=1)))
        p4 = self.bottom_up_p4(torch.cat((self.down_p3(p3), p4), dim=1))
        p5 = self.bottom_up_p5(torch.cat((self.down_p4(p4), p5), dim=1))
        return [p3, p4, p5]


class TinyNeck(nn.Module):
    """YOLOv4-tiny's: P5 reduced, and beside P4 once more reduced and enlarged (2011.08036).

    Args:
        in_channels: Of the backbone's P4 and P5.
        width: Multiplies the channels of what is made here, which stay divisible by 8.
        form: Padding, batch norm, activation and kind of convolution, which only the head uses.
    """

    def __init__(self, in_channels: Sequence[int], width: float = 1.0, form: Form = FORMS["leaky"]) -> None:
        super().__init__()
        in_p4, in_p5 = in_channels
        top_down, p5, head_p5 = (make_divisible(channels * width) for channels in (128, 256, 512))
        self.out_channels = (top_down + in_p4, p5)
        self.head_channels = (p5, head_p5)
        self.drop = DropBlock()
        self.reduce_p5 = ConvBlock(in_p5, p5, 1, form)
        self.top_down = ConvBlock(p5, top_down, 1, form)
        initialise(self)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The backbone's P4, P5 to the head's, of the same sizes."""
        p4, p5 = levels
        p5 = self.drop(self.reduce_p5(p5))
        return [torch.cat((_upsample(self.top_down(p5)), p4), dim=1), p5]


class Straight(nn.Module):
    """No neck: for networks whose backbone holds all up to the head.

    Args:
        channels: Of every level.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = tuple(channels)
        self.drop = DropBlock()

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Every level as it came, but for DropBlock."""
        return [self.drop(level) for level in levels]


def _three(in_channels: int, channels: int, form: Form) -> nn.Sequential:
    """1x1, 3x3 to twice the channels, 1x1."""
    return nn.Sequential(
        ConvBlock(in_channels, channels, 1, form),
        three_by_three(channels, 2 * channels, form),
        ConvBlock(2 * channels, channels, 1, form),
    )


def _five(in_channels: int, channels: int, form: Form) -> nn.Sequential:
    """Three, and once more 3x3 and 1x1."""
    return nn.Sequential(
        *_three(in_channels, channels, form),
        three_by_three(channels, 2 * channels, form),
        ConvBlock(2 * channels, channels, 1, form),
    )


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
