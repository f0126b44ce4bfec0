"""Backbone, neck and head together."""

import torch
from torch import Tensor, nn

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import SettingsError
from pocketdet.models.backbone import Backbone
from pocketdet.models.backbones import build_backbone
from pocketdet.models.blocks import Bneck
from pocketdet.models.channels import narrow
from pocketdet.models.head import Head, HeadOutput
from pocketdet.models.neck import FORMS, Neck

PerChannel = tuple[float, float, float]
IMAGENET_MEAN: PerChannel = (0.485, 0.456, 0.406)
IMAGENET_STD: PerChannel = (0.229, 0.224, 0.225)


class Detector(nn.Module):
    """YOLOv4 on a MobileNet.

    Args:
        backbone: Makes P3, P4, P5 of the image.
        num_classes: K.
        neck_width: Multiplies the channels of neck and head.
        mean: Per channel, subtracted from RGB in 0 to 1.
        std: Per channel, divides after the subtraction.
        neck_activation: Of neck and head, a key of ``FORMS``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        neck_width: float = 1.0,
        mean: PerChannel = IMAGENET_MEAN,
        std: PerChannel = IMAGENET_STD,
        neck_activation: str = "relu6",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = Neck(backbone.out_channels, neck_width, FORMS[neck_activation])
        self.head = Head(self.neck.out_channels, num_classes, FORMS[neck_activation])
        self.num_classes = num_classes
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[HeadOutput]:
        """``(B, 3, H, W)`` RGB in 0 to 1, sides multiples of 32, to the raw logits of P3, P4, P5."""
        outputs: list[HeadOutput] = self.head(self.features(images))
        return outputs

    def features(self, images: Tensor) -> list[Tensor]:
        """Images as ``forward`` takes them to what the neck gives the head: P3, P4, P5."""
        levels: list[Tensor] = self.neck(self.backbone((images - self.mean) / self.std))
        return levels


def build_detector(
    backbone: str,
    num_classes: int,
    width: float = 1.0,
    neck_width: float = 1.0,
    padding: str = "symmetric",
    mean: PerChannel = IMAGENET_MEAN,
    std: PerChannel = IMAGENET_STD,
    neck_activation: str = "relu6",
) -> Detector:
    """A detector with random weights.

    Args:
        backbone: A key of ``BACKBONES``.
        num_classes: K, at least 1.
        width: Multiplies the channels of the backbone.
        neck_width: Multiplies the channels of neck and head.
        padding: Of the backbone: ``"same"`` (TensorFlow's) or ``"symmetric"`` (PyTorch's).
        mean: Per channel, subtracted from RGB in 0 to 1.
        std: Per channel, divides after the subtraction.
        neck_activation: Of neck and head: ``"relu6"`` or ``"mish"``.

    Raises:
        SettingsError: An unknown backbone, padding or activation, or a number out of range.
    """
    if num_classes < 1:
        raise SettingsError(f"num_classes is {num_classes}; a detector needs at least 1 class")
    if not 0 < neck_width <= 4:
        raise SettingsError(f"neck_width is {neck_width}; it must be above 0 and at most 4")
    if neck_activation not in FORMS:
        raise SettingsError(f'neck_activation is "{neck_activation}"; it must be one of {", ".join(FORMS)}')
    return Detector(build_backbone(backbone, width, padding), num_classes, neck_width, mean, std, neck_activation)


def build_from_metadata(metadata: ModelMetadata) -> Detector:
    """The network that a checkpoint's metadata describe, with random weights; errors as ``build_detector``."""
    detector = build_detector(
        metadata.backbone,
        len(metadata.class_names),
        metadata.width,
        metadata.neck_width,
        metadata.padding,
        metadata.mean,
        metadata.std,
        metadata.neck_activation,
    )
    if metadata.se_before_activation:
        for block in detector.backbone.modules():
            if isinstance(block, Bneck):
                block.excite_first()
    narrow(detector, metadata.channels)
    return detector
