"""Self-adversarial training, YOLOv4 §3.3: the network alters a picture, then learns from it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from pocketdet.models.detector import Detector

STEP = 4 / 255  # of every pixel, in 0 to 1: our choice, YOLOv4 states none; its effect has not been measured


def hide_objects(detector: Detector, images: Tensor, fabric: Fabric) -> Tensor:
    """Alter pictures such that the detector sees fewer objects in them; the detector stays as it is.

    One step by the sign of the gradient (1412.6572 §3), down the objectness loss that the picture had if there were no
    object on it: "the deception that there is no desired object". The detector runs in evaluation mode, so that its
    batch norm statistics stay, and past DDP, which would wait for gradients of the weights.

    Args:
        detector: Not wrapped.
        images: ``(B, 3, H, W)`` RGB in 0 to 1.
        fabric: Its precision is used.

    Returns:
        ``images``, each value moved by at most ``STEP``, in 0 to 1.
    """
    pixels = images.detach().requires_grad_()
    with _evaluation_mode(detector), fabric.autocast():
        objectness = [level.objectness.float() for level in detector(pixels)]
    seen = torch.stack([F.softplus(logits).sum() for logits in objectness]).sum()  # cross-entropy against nothing
    (gradient,) = torch.autograd.grad(seen, pixels)
    return (images - STEP * gradient.sign()).clamp(0, 1)


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Every module goes back to the mode it had: parts of a network may be frozen."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
