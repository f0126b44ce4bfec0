"""The optimizer, its schedule, and the moving average of the weights."""

import copy
import math

import torch
from torch import nn

from pocketdet.models.detector import Detector
from pocketdet.training.settings import TrainSettings

FINAL_LEARNING_RATE = 0.01  # of the peak, where the cosine ends


def build_optimizer(detector: Detector, settings: TrainSettings) -> torch.optim.Optimizer:
    """Four groups: backbone or not, convolution weights (that decay) or biases and batch norm (that do not)."""
    groups = []
    for is_backbone in (False, True):
        for decays in (False, True):
            parameters = [
                parameter
                for name, parameter in detector.named_parameters()
                if name.startswith("backbone.") == is_backbone and (parameter.ndim > 1) == decays
            ]
            factor = settings.backbone_learning_rate if is_backbone else 1.0
            decay = settings.weight_decay if decays else 0.0
            groups.append({"params": parameters, "weight_decay": decay, "factor": factor})
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.peak_learning_rate, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=settings.peak_learning_rate, betas=(0.9, 0.999), fused=True)


def learning_rate(step: int, steps_per_epoch: int, settings: TrainSettings) -> float:
    """Linear warmup, then half a cosine down to 1 % at the last step, or no change."""
    warmup = max(1.0, settings.warmup_epochs * steps_per_epoch)
    total = settings.epochs * steps_per_epoch
    if step < warmup:
        return settings.peak_learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.peak_learning_rate
    progress = min(1.0, (step - warmup) / max(1.0, total - warmup))
    share = FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * (1 + math.cos(math.pi * progress)) / 2
    return settings.peak_learning_rate * share


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


class ExponentialMovingAverage:
    """A second detector whose weights follow slowly, and that is evaluated and kept.

    Args:
        detector: To follow.
        decay: How much of the average stays at each step; at first less, so that it leaves the start quickly.
    """

    def __init__(self, detector: Detector, decay: float) -> None:
        self.detector = copy.deepcopy(detector).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, detector: nn.Module, step: int) -> None:
        """Move towards the detector.

        Args:
            detector: After its optimizer step.
            step: Counted from 0 over the whole run.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        average, current = self.detector.state_dict(), detector.state_dict()
        moving = [name for name, value in average.items() if value.is_floating_point()]
        torch._foreach_lerp_([average[name] for name in moving], [current[name] for name in moving], 1 - decay)
        for name in average.keys() - set(moving):
            average[name].copy_(current[name])
