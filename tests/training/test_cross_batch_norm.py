import pytest
import torch
from torch import nn

from pocketdet.models import build_detector
from pocketdet.training.cross_batch_norm import cross_batch_norms, end_step


def pair() -> tuple[nn.Sequential, nn.Sequential]:
    """A plain batch norm with values of its own, and one that collects over a step."""
    plain = nn.Sequential(nn.BatchNorm2d(3)).train()
    nn.init.uniform_(plain[0].weight)
    nn.init.uniform_(plain[0].bias)
    crossed = nn.Sequential(nn.BatchNorm2d(3)).train()
    crossed.load_state_dict(plain.state_dict())
    cross_batch_norms(crossed)
    return plain, crossed


def gradients(network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x = x.clone().requires_grad_()
    y = network(x)
    return (y, *torch.autograd.grad((y * torch.arange(y.numel()).view_as(y).cos()).sum(), (x, *network.parameters())))


def test_with_one_batch_a_step_it_is_plain_batch_norm():
    torch.manual_seed(0)
    plain, crossed = pair()
    for _ in range(3):
        x = torch.randn(4, 3, 5, 6) * 3 + 1
        torch.testing.assert_close(gradients(crossed, x), gradients(plain, x), rtol=1e-4, atol=1e-5)
        end_step(crossed)
    torch.testing.assert_close(crossed.state_dict(), plain.state_dict())


def test_after_k_batches_the_statistics_are_those_of_all_of_them_as_one():
    torch.manual_seed(1)
    plain, crossed = pair()
    whole = torch.randn(8, 3, 4, 4) * torch.linspace(1, 5, 8)[:, None, None, None] + 2
    expected = plain(whole)
    parts = [crossed(part) for part in whole.chunk(4)]
    assert not torch.allclose(parts[0], expected[:2], atol=0.1), "the first batch knows only itself"
    torch.testing.assert_close(parts[-1], expected[-2:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(crossed[0].running_mean, plain[0].running_mean), "moves at the end of the step only"
    end_step(crossed)
    torch.testing.assert_close(crossed.state_dict(), plain.state_dict())


def test_nothing_of_a_step_is_left_for_the_next_one():
    torch.manual_seed(2)
    plain, crossed = pair()
    crossed(torch.randn(4, 3, 5, 5) + 9)
    end_step(crossed)
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(crossed(x), plain(x), rtol=1e-4, atol=1e-5)


def test_a_detector_keeps_its_keys_values_and_outputs_in_evaluation():
    detector = build_detector("mobilenet_v3_small", 2, 0.35, 0.125).eval()
    images = torch.rand(1, 3, 64, 64)
    before, state = detector(images)[2].boxes, {k: v.clone() for k, v in detector.state_dict().items()}
    cross_batch_norms(detector)
    assert not [norm for norm in detector.modules() if type(norm) is nn.BatchNorm2d]
    torch.testing.assert_close(detector.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(detector(images)[2].boxes, before)
    end_step(detector)
    torch.testing.assert_close(detector.state_dict(), state, rtol=0, atol=0)


def test_bfloat16_is_given_back_and_computed_in_float32():
    _, crossed = pair()
    y = crossed(torch.randn(4, 3, 8, 8).bfloat16().to(memory_format=torch.channels_last))
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert crossed[0].seen.mean.dtype == torch.float32
    assert y.float().mean(dim=(0, 2, 3)).tolist() == pytest.approx(crossed[0].bias.tolist(), abs=0.02)
