"""What chance decides for a whole step or batch: by the seed and the place in the run, alike on all processes."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from pocketdet.training.assigner import Targets
from pocketdet.training.settings import SMALLEST_SIZE, STRIDE, TrainSettings

STEPS_PER_SIZE = 10  # as darknet's random=1
SIZES, ATTACKS = 1, 2  # keep the streams of random numbers apart


def input_size(settings: TrainSettings, step: int) -> int:
    """Height and width of the network's input at a step: random shapes, YOLOv4 §3.4 and YOLO9000 §2, multi-scale."""
    if not settings.multi_scale:
        return settings.size
    rng = np.random.default_rng((settings.seed, SIZES, step // STEPS_PER_SIZE))
    return int(rng.choice(possible_sizes(settings)))


def possible_sizes(settings: TrainSettings) -> list[int]:
    """All multiples of 32 within the share of the input size that is allowed, not below 64."""
    spread = round(settings.size * settings.multi_scale)
    smallest = max(SMALLEST_SIZE, settings.size - spread)
    return list(range(-(-smallest // STRIDE) * STRIDE, settings.size + spread + 1, STRIDE))


def resize(images: Tensor, targets: Targets, size: int) -> tuple[Tensor, Targets]:
    """Bring a batch to another size; its boxes move along.

    Args:
        images: ``(B, 3, H, H)`` floats.
        targets: Of the whole batch.
        size: New height and width.
    """
    if images.shape[2] == size:
        return images, targets
    factor = size / images.shape[2]
    resized = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=factor < 1)
    return resized, targets._replace(boxes=targets.boxes * factor)


def is_attacked(settings: TrainSettings, epoch: int, batch: int) -> bool:
    """Whether a batch is altered by ``hide_objects`` before it is learned from."""
    if not settings.self_adversarial:
        return False
    rng = np.random.default_rng((settings.seed, ATTACKS, epoch, batch))
    return bool(rng.random() < settings.self_adversarial)
