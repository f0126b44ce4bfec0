import pytest
import torch
from torch import Tensor

from pocketdet.models.blocks import convolution
from pocketdet.models.depthwise import _StridedDepthwise


def gradients(y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y.square().sum(), inputs)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (9, 5)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (3, 2, 0), (5, 2, 2), (3, 3, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_a_strided_depthwise_convolution_is_torchs(
    size: tuple[int, int], kernel: int, stride: int, padding: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    weight = torch.randn(6, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    theirs = torch.conv2d(x, weight, None, stride, padding, groups=6)
    ours = _StridedDepthwise.apply(x, weight, stride, padding)
    assert torch.equal(ours, theirs)
    for a, b in zip(gradients(ours, x, weight), gradients(theirs, x, weight), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_in_bfloat16_a_strided_depthwise_block_has_the_gradient_of_float32(padding: str) -> None:
    torch.manual_seed(0)
    layer = convolution(32, 32, 3, padding, stride=2, groups=32).to(memory_format=torch.channels_last)
    x = torch.randn(2, 32, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert "StridedDepthwise" in type(y.grad_fn).__name__
    expected = gradients(layer(x), x, layer.weight)
    for a, b in zip(gradients(y.float(), x, layer.weight), expected, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.01 * b.norm()


def test_a_fixed_weight_gets_no_gradient_and_its_input_does() -> None:
    layer = convolution(8, 8, 3, "symmetric", stride=2, groups=8).requires_grad_(False)
    x = torch.randn(1, 8, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    layer.to(torch.bfloat16)(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None
