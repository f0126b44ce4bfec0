"""Backbone, neck and head together."""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pocketdet.core.metadata import (
    DARKNET,
    YOLOV4_ANCHORS,
    YOLOV4_SCALE_XY,
    YOLOV4_TINY_ANCHORS,
    YOLOV4_TINY_SCALE_XY,
    ModelMetadata,
)
from pocketdet.errors import SettingsError
from pocketdet.models.backbone import Backbone
from pocketdet.models.backbones import build_backbone
from pocketdet.models.blocks import Bneck
from pocketdet.models.channels import narrow
from pocketdet.models.darknet.network import Darknet
from pocketdet.models.head import Head, HeadOutput, LevelHead, build_head
from pocketdet.models.neck import CONVOLUTIONS, FORMS, Neck, Straight, TinyNeck

PerChannel = tuple[float, float, float]
IMAGENET_MEAN: PerChannel = (0.485, 0.456, 0.406)
IMAGENET_STD: PerChannel = (0.229, 0.224, 0.225)
NO_MEAN: PerChannel = (0.0, 0.0, 0.0)
NO_STD: PerChannel = (1.0, 1.0, 1.0)
HALF: PerChannel = (0.5, 0.5, 0.5)  # as mean and std: x / 127.5 - 1, of 0 to 255


class Detector(nn.Module):
    """Backbone, neck and head in a row.

    Args:
        backbone: Makes P3, P4, P5 of the image.
        neck: Mixes them; has ``out_channels``, and a ``drop`` for DropBlock.
        head: Makes raw logits of what the neck gives.
        mean: Per channel, subtracted from RGB in 0 to 1.
        std: Per channel, divides after the subtraction.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone | Darknet,
        neck: Neck | TinyNeck | Straight,
        head: Head,
        mean: PerChannel = IMAGENET_MEAN,
        std: PerChannel = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
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
    neck_activation: str | None = None,
    neck_convolution: str | None = None,
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
        neck_activation: Of neck and head: ``"relu6"``, ``"mish"`` or ``"leaky"``; by default the backbone's,
            ``default_neck``.
        neck_convolution: Of neck and head: ``"separable"`` or ``"plain"`` 3x3; by default the backbone's.

    Raises:
        SettingsError: An unknown backbone, padding, activation or convolution, or a number out of range.
    """
    if num_classes < 1:
        raise SettingsError(f"num_classes is {num_classes}; a detector needs at least 1 class")
    if not 0 < neck_width <= 4:
        raise SettingsError(f"neck_width is {neck_width}; it must be above 0 and at most 4")
    style = default_neck(backbone)
    activation, convolution = neck_activation or style.activation, neck_convolution or style.convolution
    if activation not in FORMS:
        raise SettingsError(f'neck_activation is "{activation}"; it must be one of {", ".join(FORMS)}')
    if convolution not in CONVOLUTIONS:
        raise SettingsError(f'neck_convolution is "{convolution}"; it must be one of {", ".join(CONVOLUTIONS)}')
    form = FORMS[activation]._replace(convolution=convolution)
    built = build_backbone(backbone, width, padding)
    neck = (TinyNeck if len(built.out_channels) == 2 else Neck)(built.out_channels, neck_width, form)
    return Detector(built, neck, build_head(neck, num_classes, form), mean, std)


class NeckStyle(NamedTuple):
    """What neck and head are made of."""

    activation: str
    convolution: str


def default_neck(backbone: str) -> NeckStyle:
    """Of neck and head: YOLOv4's own for its own backbones, and for the MobileNets what they are made of themselves."""
    return NeckStyle("leaky", "plain") if backbone.startswith("cspdarknet53") else NeckStyle("relu6", "separable")


def describe_levels(metadata: ModelMetadata) -> ModelMetadata:
    """With the strides of the backbone's levels and the anchors and grid sensitivity that YOLOv4 has on so many."""
    strides = build_backbone(metadata.backbone, metadata.width, metadata.padding).strides
    if len(strides) == len(YOLOV4_TINY_ANCHORS):
        return dataclasses.replace(
            metadata, strides=strides, anchors=YOLOV4_TINY_ANCHORS, scale_xy=YOLOV4_TINY_SCALE_XY
        )
    return dataclasses.replace(metadata, strides=strides, anchors=YOLOV4_ANCHORS, scale_xy=YOLOV4_SCALE_XY)


def build_darknet(
    configuration: str,
    num_classes: int | None = None,
    mean: PerChannel = NO_MEAN,
    std: PerChannel = NO_STD,
    file: str = "cfg",
) -> Detector:
    """The detector that a darknet configuration describes, with random weights.

    Its last convolutions, before ``[yolo]``, are the head; all others are the backbone.

    Args:
        configuration: The text of a ``.cfg`` file.
        num_classes: K; by default the configuration's.
        mean: Per channel, subtracted from RGB in 0 to 1; darknet subtracts nothing.
        std: Per channel, divides after the subtraction.
        file: Name of the file, for error messages.

    Raises:
        ModelFileError: Something in it is not supported or does not fit; names the line.
    """
    backbone = Darknet(configuration, file)
    heads = [
        LevelHead(
            level.in_channels,
            level.num_classes if num_classes is None else num_classes,
            num_anchors=len(level.anchors),
            kernel=level.kernel,
        )
        for level in backbone.levels
    ]
    return Detector(backbone, Straight(backbone.out_channels), Head(heads), mean, std)


def build_from_metadata(metadata: ModelMetadata) -> Detector:
    """The network that a checkpoint's metadata describe, with random weights; errors as ``build_detector``."""
    if metadata.backbone == DARKNET:
        return build_darknet(metadata.configuration, len(metadata.class_names), metadata.mean, metadata.std)
    detector = build_detector(
        metadata.backbone,
        len(metadata.class_names),
        metadata.width,
        metadata.neck_width,
        metadata.padding,
        metadata.mean,
        metadata.std,
        metadata.neck_activation,
        metadata.neck_convolution,
    )
    if metadata.se_before_activation:
        for block in detector.backbone.modules():
            if isinstance(block, Bneck):
                block.excite_first()
    narrow(detector, metadata.channels)
    return detector
