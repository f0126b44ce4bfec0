"""What every backbone is: blocks in a row, three of which feed the neck."""

from collections.abc import Sequence

from torch import Tensor, nn

from pocketdet.errors import SettingsError
from pocketdet.models.blocks import initialise

STRIDES = (8, 16, 32)


class Backbone(nn.Module):
    """Blocks in a row; the outputs of three of them are P3, P4 and P5.

    Args:
        features: The blocks; nothing behind P5.
        pyramid: Indices of the three blocks.
        out_channels: Of P3, P4, P5.
        padding: ``"same"`` or ``"symmetric"``, as the blocks were made.
        strides: Of the levels, input pixels per cell.
    """

    def __init__(
        self,
        features: Sequence[nn.Module],
        pyramid: Sequence[int],
        out_channels: Sequence[int],
        padding: str,
        strides: tuple[int, ...] = STRIDES,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.pyramid = tuple(pyramid)
        self.out_channels = tuple(out_channels)
        self.strides = strides
        self.padding = padding
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` normalised images to P3, P4, P5, each ``(B, out_channels, H / stride, W / stride)``."""
        check_size(images.shape[2], images.shape[3])
        x, levels = images, []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self.pyramid:
                levels.append(x)
        return levels


class Classifier(nn.Module):
    """A backbone with the rows of its paper that follow P5.

    Args:
        features: All convolutional blocks.
        classifier: From the average over height and width to the logits.
    """

    def __init__(self, features: Sequence[nn.Module], classifier: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.classifier = classifier
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` normalised images to ``(B, num_classes)`` logits."""
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits


def check_size(height: int, width: int, stride: int = STRIDES[-1]) -> None:
    """Raise where the last level would not divide the input.

    Args:
        height: Of the input, pixels.
        width: Of the input, pixels.
        stride: Of the last level.

    Raises:
        SettingsError: Height or width is no multiple of the stride.
    """
    if height % stride or width % stride:
        up = [max(1, -(-side // stride)) * stride for side in (height, width)]
        raise SettingsError(
            f"the input is {height} x {width} pixels (height x width); both must be multiples of {stride}: "
            f"letterbox to {up[0]} x {up[1]}"
        )
