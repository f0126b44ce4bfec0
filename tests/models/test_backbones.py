import pytest
import timm
import torch
import torchvision
from torch import nn

from pocketdet.errors import SettingsError
from pocketdet.models import BACKBONES, build_backbone, build_classifier, explain
from pocketdet.models.blocks import SqueezeExcitation
from pocketdet.models.mobilenet_v3 import LARGE, SMALL

ORACLES = {
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "mobilenet_v3_large": torchvision.models.mobilenet_v3_large,
    "mobilenet_v3_small": torchvision.models.mobilenet_v3_small,
}
WIDTHS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def randomise_statistics(network):
    """Batch norms of a fresh network do nothing; a wrong one would go unnoticed."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mobilenet_v1", 4_231_976),
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v3_large", 5_483_032),
        ("mobilenet_v3_small", 2_542_856),
    ],
)
def test_the_classification_network_has_the_parameters_of_the_published_one(name, count):
    assert parameters(build_classifier(name)) == count


@pytest.mark.parametrize("name", ORACLES)
def test_the_classification_network_computes_what_torchvision_computes(name):
    theirs = ORACLES[name](weights=None).eval()
    randomise_statistics(theirs)
    ours = build_classifier(name).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ORACLES)
def test_the_backbone_gives_torchvisions_features(name):
    theirs, ours = ORACLES[name](weights=None).eval(), build_backbone(name).eval()
    randomise_statistics(theirs)
    ours.features.load_state_dict(theirs.features[: len(ours.features)].state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for level, last in zip(ours(images), ours.pyramid, strict=True):
            torch.testing.assert_close(level, theirs.features[: last + 1](images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ORACLES)
def test_a_width_gives_torchvisions_channels(name, width):
    with torch.device("meta"):
        ours, theirs = build_backbone(name, width), ORACLES[name](weights=None, width_mult=width)
    assert parameters(ours) == parameters(theirs.features[: len(ours.features)])


def test_a_wider_mobilenet_v1_has_timms_channels():
    with torch.device("meta"):
        assert parameters(build_classifier("mobilenet_v1", 1.25)) == parameters(timm.create_model("mobilenetv1_125"))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", BACKBONES)
def test_all_channels_are_divisible_by_8_at_every_width(name, width):
    with torch.device("meta"):
        backbone = build_backbone(name, width)
    channels = [layer.out_channels for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]
    assert [c for c in channels if c % 8] == []


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("name", BACKBONES)
def test_the_backbone_keeps_its_promise_of_channels_and_strides(name, padding):
    backbone = build_backbone(name, 0.5, padding).eval()
    with torch.inference_mode():
        levels = backbone(torch.rand(2, 3, 64, 96))
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(backbone.out_channels, backbone.strides, strict=True)]
    assert [tuple(level.shape) for level in levels] == expected
    assert backbone.padding == padding


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("mobilenet_v1", (256, 512, 1024)),
        ("mobilenet_v2", (32, 96, 320)),
        ("mobilenet_v3_large", (40, 112, 160)),
        ("mobilenet_v3_small", (24, 48, 96)),
    ],
)
def test_the_pyramid_taps_the_last_block_of_each_stride(name, channels):
    assert build_backbone(name).out_channels == channels


@pytest.mark.parametrize(("name", "table"), [("mobilenet_v3_large", LARGE), ("mobilenet_v3_small", SMALL)])
def test_explain_prints_the_papers_table_of_mobilenet_v3_back(name, table):
    computed = [row for row in explain(build_classifier(name), (224, 224)).rows if row.operator.startswith("bneck")]
    assert [(r.input, r.operator, r.expansion, r.out_channels, r.has_se, r.activation, r.stride) for r in computed] == [
        (
            (r.size, r.size, r.in_channels),
            f"bneck {r.kernel}x{r.kernel}",
            r.expanded,
            r.out_channels,
            r.has_se,
            r.activation,
            r.stride,
        )
        for r in table.rows
    ]


@pytest.mark.parametrize("name", ["mobilenet_v3_large_minimalistic", "mobilenet_v3_small_minimalistic"])
def test_the_minimalistic_forms_have_no_se_no_h_swish_and_no_5x5(name):
    for layer in build_classifier(name).modules():
        assert not isinstance(layer, (SqueezeExcitation, nn.Hardswish, nn.Hardsigmoid))
        assert not isinstance(layer, nn.Conv2d) or max(layer.kernel_size) <= 3


@pytest.mark.parametrize("build", [build_backbone, build_classifier])
def test_an_unknown_backbone_lists_those_that_there_are(build):
    with pytest.raises(SettingsError, match=r'no backbone "mobilenet_v4".*mobilenet_v1, mobilenet_v2'):
        build("mobilenet_v4")


def test_a_width_of_zero_is_refused():
    with pytest.raises(SettingsError, match="width is 0"):
        build_backbone("mobilenet_v2", 0)


def test_a_size_that_32_does_not_divide_names_the_next_one_that_it_does():
    with pytest.raises(SettingsError, match=r"100 x 64 pixels.*multiples of 32.*128 x 64"):
        build_backbone("mobilenet_v3_small", 0.25)(torch.rand(1, 3, 100, 64))
