"""The network as it is exported: bytes in, raw logits out."""

import copy

import torch
from torch import Tensor, nn

from pocketdet.models.detector import Detector


class BytesToLogits(nn.Module):
    """The detector on bytes: its normalisation lies in the weights of its first convolution.

    The subtraction of the mean stays: as a bias it would be wrong where the convolution pads with zeros.
    """

    offset: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        detector = copy.deepcopy(detector).cpu().float()
        with torch.no_grad():
            _stem(detector.backbone).weight /= 255 * detector.std
        self.register_buffer("offset", 255 * detector.mean)
        self.backbone, self.neck, self.head = detector.backbone, detector.neck, detector.head
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``(B, H, W, 3)`` uint8 to the nine raw outputs."""
        return self.from_centred(images.permute(0, 3, 1, 2).float() - self.offset)

    def from_centred(self, images: Tensor) -> tuple[Tensor, ...]:
        """``(B, 3, H, W)`` float, less the mean, to the nine raw outputs."""
        levels = self.head(self.neck(self.backbone(images)))
        return tuple(tensor for level in levels for tensor in level)


class PlanesToLogits(BytesToLogits):
    """The same for formats whose runtimes turn pixels into planes of float themselves.

    The pixels are divided by 255 and not the stem's weights: half of those of ``animals`` would be so small that ncnn
    stores them in float16 as 0.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector)
        with torch.no_grad():
            _stem(self.backbone).weight *= 255

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``(B, 3, H, W)`` float, 0 to 255, to the nine raw outputs."""
        return self.from_centred((images - self.offset) / 255)


def _stem(backbone: nn.Module) -> nn.Conv2d:
    return next(layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d))
