"""The blocks of the networks: MobileNet V1's, V2's and V3's, and what all have in common."""

import itertools
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from pocketdet.errors import SettingsError
from pocketdet.models.depthwise import strided_depthwise

Activation = Literal["RE", "RE6", "HS", "MISH", "LEAKY", "linear"]


class Leaky(nn.LeakyReLU):
    """Darknet's leaky ReLU: of what is negative a tenth."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.1, inplace)


ACTIVATIONS: dict[str, type[nn.ReLU] | type[nn.ReLU6] | type[nn.Hardswish] | type[nn.Mish] | type[Leaky]] = {
    "RE": nn.ReLU,
    "RE6": nn.ReLU6,
    "HS": nn.Hardswish,  # x * ReLU6(x + 3) / 6, V3 §5.2
    "MISH": nn.Mish,  # x * tanh(softplus(x)), 1908.08681 §2
    "LEAKY": Leaky,
}
PADDINGS = ("same", "symmetric")


class Form(NamedTuple):
    """What all convolutions of a network have in common.

    Args:
        padding: ``"same"`` (TensorFlow's) or ``"symmetric"`` (PyTorch's).
        eps: Of the batch norm.
        momentum: Of the batch norm, as PyTorch counts it.
        activation: A key of ``ACTIVATIONS``, or ``"linear"`` for none.
        convolution: Of neck and head: ``"separable"`` or ``"plain"`` 3x3.
    """

    padding: str = "symmetric"
    eps: float = 1e-5
    momentum: float = 0.1
    activation: Activation = "RE6"
    convolution: str = "separable"


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of ``divisor``, at least one of them and never below 90 % of ``channels``.

    As in the code of the MobileNet papers.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: what is odd of it goes to the right and to the bottom.

    At stride 2 and an even size a 3x3 kernel gets no pixel on the left and one on the right, where
    symmetric padding gives one on the left: each output looks one pixel further.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``."""
        top, bottom = same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
        left, right = same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
        x = F.pad(x, (left, right, top, bottom))
        is_depthwise = self.groups == self.in_channels == self.out_channels
        return strided_depthwise(x, self.weight, self.stride[0], 0) if is_depthwise else super().forward(x)


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution with a stride and PyTorch's symmetric padding."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, ceil(H / stride), ceil(W / stride))``."""
        return strided_depthwise(x, self.weight, self.stride[0], int(self.padding[0]))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after one side, such that the output has ``ceil(size / stride)`` of them.

    Plain integers at every size that is a multiple of the stride, so that an export finds constants.
    """
    over = stride if size % stride == 0 else size % stride
    total = max(kernel - over, 0)
    return total // 2, total - total // 2


def convolution(
    in_channels: int, out_channels: int, kernel: int, padding: str, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias that pads to keep the size (at stride 1).

    Raises:
        SettingsError: ``padding`` is neither ``"same"`` nor ``"symmetric"``.
    """
    if padding not in PADDINGS:
        raise SettingsError(f'padding is "{padding}"; it must be one of {", ".join(PADDINGS)}')
    if padding == "same" and stride > 1:
        return SameConv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False)
    is_depthwise = groups == in_channels == out_channels and stride > 1
    kind = StridedDepthwise if is_depthwise else nn.Conv2d
    return kind(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)


class ConvBlock(nn.Sequential):
    """Convolution, batch norm, activation.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Height and width of the kernel.
        form: Padding, batch norm and activation.
        stride: Input pixels per output pixel.
        groups: ``in_channels`` makes a depthwise convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, form: Form, stride: int = 1, groups: int = 1
    ) -> None:
        layers: list[nn.Module] = [
            convolution(in_channels, out_channels, kernel, form.padding, stride, groups),
            nn.BatchNorm2d(out_channels, form.eps, form.momentum),
        ]
        if form.activation != "linear":
            layers.append(ACTIVATIONS[form.activation](inplace=True))
        super().__init__(*layers)


class DepthwiseSeparable(nn.Sequential):
    """A 3x3 depthwise and a 1x1 pointwise convolution in place of one 3x3: V1 §3.1."""

    def __init__(self, in_channels: int, out_channels: int, form: Form, stride: int = 1) -> None:
        super().__init__(
            ConvBlock(in_channels, in_channels, 3, form, stride, groups=in_channels),
            ConvBlock(in_channels, out_channels, 1, form),
        )


def three_by_three(in_channels: int, out_channels: int, form: Form, stride: int = 1) -> DepthwiseSeparable | ConvBlock:
    """A 3x3 convolution as ``form.convolution`` says, with batch norm and activation."""
    if form.convolution == "plain":
        return ConvBlock(in_channels, out_channels, 3, form, stride)
    return DepthwiseSeparable(in_channels, out_channels, form, stride)


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project to a linear bottleneck: V2 §3.2 and §3.3.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        expansion: Channels inside, as a multiple of ``in_channels``; 1 leaves the expansion out.
        form: Padding, batch norm and activation.
        stride: Of the depthwise convolution; with 1 and equal channels there is a shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, form: Form, stride: int) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == out_channels
        expanded = in_channels * expansion
        expand = [ConvBlock(in_channels, expanded, 1, form)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvBlock(expanded, expanded, 3, form, stride, groups=expanded),
            convolution(expanded, out_channels, 1, form.padding),
            nn.BatchNorm2d(out_channels, form.eps, form.momentum),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H / stride, W / stride)``."""
        y: Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


class SqueezeExcitation(nn.Module):
    """Weigh each channel by what all of them say on average: SE §3, with V3's quarter (§5.3) and hard sigmoid.

    ``then`` is what follows: nothing, or the activation of the block in front (see ``Bneck.excite_first``).
    """

    then: nn.Module

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = make_divisible(channels // 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU(inplace=True)
        self.gate = nn.Hardsigmoid()  # ReLU6(x + 3) / 6
        self.then = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)``, scaled channel by channel."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        gate: Tensor = self.gate(self.fc2(self.activation(self.fc1(mean))))
        weighed: Tensor = self.then(x * gate)
        return weighed


class Bneck(nn.Module):
    """V3's block: the inverted residual with a choice of kernel, SE and non-linearity (V3, figure 4).

    Args:
        in_channels: Of the input.
        expanded: Channels inside; equal to ``in_channels`` leaves the expansion out.
        out_channels: Of the output.
        kernel: Of the depthwise convolution.
        form: Padding, batch norm and activation.
        stride: Of the depthwise convolution; with 1 and equal channels there is a shortcut.
        has_se: Squeeze-and-excitation after the depthwise convolution.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel: int,
        form: Form,
        *,
        stride: int,
        has_se: bool,
    ) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == out_channels
        expand = [ConvBlock(in_channels, expanded, 1, form)] if expanded != in_channels else []
        excite = [SqueezeExcitation(expanded)] if has_se else []
        self.block = nn.Sequential(
            *expand,
            ConvBlock(expanded, expanded, kernel, form, stride, groups=expanded),
            *excite,
            ConvBlock(expanded, out_channels, 1, form._replace(activation="linear")),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H / stride, W / stride)``."""
        y: Tensor = self.block(x)
        return x + y if self.has_shortcut else y

    def excite_first(self) -> None:
        """Put squeeze-and-excitation before the activation of the depthwise convolution, where the block expands.

        So do networks that descend from one widely used PyTorch code; paper, Google and torchvision have it after.
        Names and shapes of the weights stay.
        """
        for depthwise, excite in itertools.pairwise(self.block):
            is_second = depthwise is not self.block[0]
            if isinstance(depthwise, ConvBlock) and isinstance(excite, SqueezeExcitation) and is_second:
                excite.then = depthwise.pop(len(depthwise) - 1)


def initialise(module: nn.Module) -> None:
    """Kaiming's normal weights (fan out) for convolutions, one and zero for batch norms."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
