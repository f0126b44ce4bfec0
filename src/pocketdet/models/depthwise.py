"""A depthwise convolution with a stride, whose gradient is fast on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_backward = torch.ops.aten.convolution_backward


def strided_depthwise(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """What ``conv2d`` computes with one group a channel, with its own gradient in bfloat16 on a CPU.

    Torch's way to the gradient of ``x`` there (oneDNN 3.12) is slow for strides above 1. The same comes from the
    convolution of stride 1, whose outputs at all places in between have a gradient of zero: 4 to 17 times faster, by
    ``benchmarks/depthwise.py``. In float32 torch's way is the faster one.

    Args:
        x: ``(B, C, H, W)``.
        weight: ``(C, 1, k, k)``.
        stride: Above 1.
        padding: Zeros on each side.
    """
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        x, weight = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (x, weight))
    is_slow_in_torch = x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.requires_grad
    if not is_slow_in_torch or torch.compiler.is_compiling():
        return F.conv2d(x, weight, None, stride, padding, groups=x.shape[1])
    result: Tensor = _StridedDepthwise.apply(x, weight, stride, padding)
    return result


class _StridedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding

        def differentiate(outputs: Tensor, step: int, wanted: tuple[bool, bool, bool]) -> Any:
            shape = ([step, step], [padding, padding], [1, 1], False, [0, 0], x.shape[1])
            return _backward(outputs, x, weight, None, *shape, wanted)

        height, width = (side + 2 * padding - weight.shape[-1] + 1 for side in x.shape[2:])
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        spread = torch.empty((*gradient.shape[:2], height, width), dtype=gradient.dtype, memory_format=layout).zero_()
        spread[:, :, ::stride, ::stride] = gradient
        of_x = differentiate(spread, 1, (True, False, False))[0]
        of_weight = differentiate(gradient, stride, (False, True, False))[1] if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None, None
