import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pocketdet.errors import SettingsError
from pocketdet.models.blocks import (
    ConvBlock,
    DepthwiseSeparable,
    Form,
    SameConv2d,
    SqueezeExcitation,
    convolution,
    make_divisible,
    same_padding,
)


def test_a_separable_convolution_from_16_to_32_has_656_weights_where_a_plain_one_has_4608():
    plain = convolution(16, 32, 3, "symmetric")
    separable = DepthwiseSeparable(16, 32, Form())
    weights = [layer.weight.numel() for layer in separable.modules() if isinstance(layer, nn.Conv2d)]
    assert plain.weight.numel() == 4608
    assert weights == [16 * 9, 16 * 32]
    assert sum(weights) == 656


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(16 * 0.25, 8), (24 * 0.75, 24), (32 * 0.35, 16), (1280 * 1.4, 1792), (24 * 1.4, 32), (4, 8), (32, 32), (36, 40)],
)
def test_make_divisible_rounds_as_the_papers_code(channels, expected):
    assert make_divisible(channels) == expected


@given(st.floats(1, 5000))
def test_make_divisible_gives_multiples_of_8_that_lose_at_most_a_tenth(channels):
    rounded = make_divisible(channels)
    assert rounded % 8 == 0
    assert rounded >= 0.9 * channels


@given(st.integers(1, 500), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]))
def test_same_padding_gives_the_size_divided_by_the_stride_rounded_up(size, kernel, stride):
    before, after = same_padding(size, kernel, stride)
    assert 0 <= after - before <= 1
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride)


def test_same_padding_of_an_even_side_at_stride_2_is_all_at_the_end():
    row = torch.tensor([1.0, 2.0, 3.0, 4.0])
    image = row.expand(1, 1, 4, 4)
    same = SameConv2d(1, 1, 3, 2, bias=False)
    symmetric = convolution(1, 1, 3, "symmetric", 2)
    for layer in (same, symmetric):
        nn.init.ones_(layer.weight)
    # Rows 0 to 2 and then 2 to 3 of the image: 3 * (1 + 2 + 3), 3 * (3 + 4), 2 * (1 + 2 + 3), 2 * (3 + 4).
    assert same(image).tolist() == [[[[18, 21], [12, 14]]]]
    # Symmetric padding sees rows 0 to 1 and then 1 to 3: 2 * (1 + 2), 2 * (2 + 3 + 4), 3 * 3, 3 * 9.
    assert symmetric(image).tolist() == [[[[6, 18], [9, 27]]]]


def test_same_padding_of_a_5x5_kernel_at_stride_2_is_one_before_and_two_after():
    assert same_padding(32, 5, 2) == (1, 2)


def test_same_and_symmetric_padding_agree_at_stride_1():
    assert type(convolution(8, 8, 5, "same", 1)) is nn.Conv2d
    assert convolution(8, 8, 5, "same", 1).padding == convolution(8, 8, 5, "symmetric", 1).padding == (2, 2)


def test_an_unknown_padding_names_the_two_that_there_are():
    with pytest.raises(SettingsError, match='padding is "valid"; it must be one of same, symmetric'):
        convolution(3, 8, 3, "valid")


def test_squeeze_and_excitation_scales_each_channel_by_one_number_from_0_to_1():
    block = SqueezeExcitation(16)
    x = torch.rand(2, 16, 5, 7) + 0.1
    gate = block(x) / x
    torch.testing.assert_close(gate, gate[:, :, :1, :1].expand_as(gate))
    assert gate.min() >= 0
    assert gate.max() <= 1


def test_a_linear_block_has_no_activation():
    assert [type(layer) for layer in ConvBlock(8, 8, 1, Form(activation="linear"))] == [nn.Conv2d, nn.BatchNorm2d]
