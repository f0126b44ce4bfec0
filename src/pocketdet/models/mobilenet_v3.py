"""MobileNet V3: arXiv 1905.02244, Tables 1 (Large) and 2 (Small), and their minimalistic forms."""

from functools import partial
from typing import Literal, NamedTuple

from torch import nn

from pocketdet.models.backbone import Backbone, Classifier
from pocketdet.models.blocks import ACTIVATIONS, Activation, Bneck, ConvBlock, Form, make_divisible


class Row(NamedTuple):
    """One bneck row of the paper's table."""

    size: int  # Input: its height and width where the image is 224 x 224
    in_channels: int  # Input: its channels
    kernel: int  # Operator: bneck, 3x3 or 5x5
    expanded: int  # exp size
    out_channels: int  # #out
    has_se: bool  # SE
    activation: Activation  # NL
    stride: int  # s


class Table(NamedTuple):
    """One of the two networks.

    Args:
        rows: The bneck rows; a stride 2 convolution to ``rows[0].in_channels`` stands before them.
        pyramid: Indices of the blocks whose output goes to the neck; the stem is block 0.
        last_channels: Of the 1x1 convolution behind the rows.
        hidden_channels: Of the 1x1 convolution behind the pooling.
    """

    rows: tuple[Row, ...]
    pyramid: tuple[int, int, int]
    last_channels: int
    hidden_channels: int


# fmt: off
SE, NO = True, False
LARGE = Table(
    rows=(
        # Input       k  exp out  SE   NL   s
        Row(112,  16, 3,  16,  16, NO, "RE", 1),
        Row(112,  16, 3,  64,  24, NO, "RE", 2),
        Row( 56,  24, 3,  72,  24, NO, "RE", 1),
        Row( 56,  24, 5,  72,  40, SE, "RE", 2),
        Row( 28,  40, 5, 120,  40, SE, "RE", 1),
        Row( 28,  40, 5, 120,  40, SE, "RE", 1),  # P3: stride 8
        Row( 28,  40, 3, 240,  80, NO, "HS", 2),
        Row( 14,  80, 3, 200,  80, NO, "HS", 1),
        Row( 14,  80, 3, 184,  80, NO, "HS", 1),
        Row( 14,  80, 3, 184,  80, NO, "HS", 1),
        Row( 14,  80, 3, 480, 112, SE, "HS", 1),
        Row( 14, 112, 3, 672, 112, SE, "HS", 1),  # P4: stride 16
        Row( 14, 112, 5, 672, 160, SE, "HS", 2),
        Row(  7, 160, 5, 960, 160, SE, "HS", 1),
        Row(  7, 160, 5, 960, 160, SE, "HS", 1),  # P5: stride 32
    ),
    pyramid=(6, 12, 15),
    last_channels=960,
    hidden_channels=1280,
)
SMALL = Table(
    rows=(
        # Input       k  exp out  SE   NL   s
        Row(112,  16, 3,  16,  16, SE, "RE", 2),
        Row( 56,  16, 3,  72,  24, NO, "RE", 2),
        Row( 28,  24, 3,  88,  24, NO, "RE", 1),  # P3: stride 8
        Row( 28,  24, 5,  96,  40, SE, "HS", 2),
        Row( 14,  40, 5, 240,  40, SE, "HS", 1),
        Row( 14,  40, 5, 240,  40, SE, "HS", 1),
        Row( 14,  40, 5, 120,  48, SE, "HS", 1),
        Row( 14,  48, 5, 144,  48, SE, "HS", 1),  # P4: stride 16
        Row( 14,  48, 5, 288,  96, SE, "HS", 2),
        Row(  7,  96, 5, 576,  96, SE, "HS", 1),
        Row(  7,  96, 5, 576,  96, SE, "HS", 1),  # P5: stride 32
    ),
    pyramid=(3, 8, 11),
    last_channels=576,
    hidden_channels=1024,
)
# fmt: on


def mobilenet_v3(
    table: Table, width: float = 1.0, padding: str = "symmetric", *, minimalistic: bool = False
) -> Backbone:
    """MobileNet V3 up to P5.

    Args:
        table: ``LARGE`` or ``SMALL``.
        width: Multiplies the channels.
        padding: ``"same"`` or ``"symmetric"``.
        minimalistic: 3x3 kernels, ReLU and no SE everywhere, as Google's code calls it.
    """
    channels = [make_divisible(table.rows[n - 1].out_channels * width) for n in table.pyramid]
    return Backbone(_features(table, width, padding, minimalistic), table.pyramid, channels, padding)


def mobilenet_v3_classifier(
    table: Table,
    width: float = 1.0,
    padding: str = "symmetric",
    num_classes: int = 1000,
    *,
    minimalistic: bool = False,
) -> Classifier:
    """All rows of the paper's table, arguments as ``mobilenet_v3``."""
    activation = _activation(minimalistic)
    last_channels = make_divisible(table.last_channels * width)
    hidden_channels = make_divisible(table.hidden_channels * width)
    last = ConvBlock(make_divisible(table.rows[-1].out_channels * width), last_channels, 1, _form(padding, activation))
    classifier = nn.Sequential(
        nn.Linear(last_channels, hidden_channels),
        ACTIVATIONS[activation](inplace=True),
        nn.Dropout(0.2),
        nn.Linear(hidden_channels, num_classes),
    )
    return Classifier([*_features(table, width, padding, minimalistic), last], classifier)


def _features(table: Table, width: float, padding: str, minimalistic: bool) -> list[nn.Module]:
    stem_channels = make_divisible(table.rows[0].in_channels * width)
    features: list[nn.Module] = [ConvBlock(3, stem_channels, 3, _form(padding, _activation(minimalistic)), stride=2)]
    for row in table.rows:
        if minimalistic:
            row = row._replace(kernel=3, has_se=False, activation="RE")
        in_channels, expanded, out_channels = (
            make_divisible(channels * width) for channels in (row.in_channels, row.expanded, row.out_channels)
        )
        form = _form(padding, row.activation)
        features.append(
            Bneck(in_channels, expanded, out_channels, row.kernel, form, stride=row.stride, has_se=row.has_se)
        )
    return features


def _activation(minimalistic: bool) -> Literal["RE", "HS"]:
    return "RE" if minimalistic else "HS"


def _form(padding: str, activation: Activation) -> Form:
    return Form(padding, eps=1e-3, momentum=0.01, activation=activation)


mobilenet_v3_large = partial(mobilenet_v3, LARGE)
mobilenet_v3_small = partial(mobilenet_v3, SMALL)
mobilenet_v3_large_minimalistic = partial(mobilenet_v3, LARGE, minimalistic=True)
mobilenet_v3_small_minimalistic = partial(mobilenet_v3, SMALL, minimalistic=True)
