"""Cross mini-batch normalisation: batch norm over all batches of a step so far (YOLOv4 §3.3, figure 4)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Statistics(NamedTuple):
    """Of each channel, over all values seen."""

    number: int  # of values a channel
    mean: Tensor  # (C,) float32
    variance: Tensor  # (C,) float32, divided by their number

    def merge(self, other: "Statistics") -> "Statistics":
        """The statistics of both together, as if they had been one batch."""
        number = self.number + other.number
        share = other.number / number
        difference = other.mean - self.mean
        variance = torch.lerp(self.variance, other.variance, share) + share * (1 - share) * difference.square()
        return Statistics(number, self.mean + share * difference, variance)

    def detach(self) -> "Statistics":
        """Without their gradient."""
        return Statistics(self.number, self.mean.detach(), self.variance.detach())


class CrossBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics grow over the batches of one step.

    The weights stay the same within a step, so that what earlier batches gave needs no correction. Batch i is
    normalised by the statistics of the batches 1 to i; its gradient flows through its own part of them. The running
    statistics move once, at the end of the step, towards those of all its batches. In evaluation mode it is a plain
    batch norm.
    """

    seen: Statistics | None = None  # of the batches of this step so far

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)``, normalised; computed in float32, given back in the type of ``x``."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
        statistics = Statistics(x.numel() // x.shape[1], mean, variance)
        if self.seen is not None:
            statistics = self.seen.merge(statistics)
        self.seen = statistics.detach()
        scale = self.weight * (statistics.variance + self.eps).rsqrt()
        shift = self.bias - statistics.mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def end_step(self) -> None:
        """Move the running statistics and forget the step's."""
        if self.seen is None:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        unbiased = self.seen.variance * (self.seen.number / max(1, self.seen.number - 1))
        self.running_mean.lerp_(self.seen.mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        self.num_batches_tracked += 1
        self.seen = None


def cross_batch_norms(network: nn.Module) -> None:
    """Replace every batch norm; names and values of parameters and buffers stay."""
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm) is nn.BatchNorm2d:
                crossed = CrossBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
                crossed.load_state_dict(norm.state_dict())
                setattr(parent, name, crossed.train(norm.training))


def end_step(network: nn.Module) -> None:
    """Let all batch norms that collect statistics over a step use them; others stay as they are."""
    for norm in network.modules():
        if isinstance(norm, CrossBatchNorm2d):
            norm.end_step()
