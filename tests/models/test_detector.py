import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pocketdet.core.decode import LevelLogits
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import SettingsError
from pocketdet.models import BACKBONES, HeadOutput, build_detector, build_from_metadata, count_multiply_adds, explain
from pocketdet.models.neck import SpatialPyramidPooling

ANCESTOR = Path(__file__).resolve().parents[2] / "../shared/formats/mobilenet_yolov4_pth_keys.json"


@pytest.mark.parametrize(
    ("name", "count", "billions"),
    [
        ("mobilenet_v1", 12_692_029, 5.21),
        ("mobilenet_v2", 10_801_149, 4.01),
        ("mobilenet_v3_large", 11_729_069, 3.75),
    ],
)
def test_the_full_width_detectors_cost_what_the_ancestors_cost(name, count, billions):
    detector = build_detector(name, num_classes=80)
    assert sum(parameter.numel() for parameter in detector.parameters()) == count
    assert round(count_multiply_adds(detector, (416, 416)) / 1e9, 2) == billions


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large"])
@pytest.mark.skipif(not ANCESTOR.exists(), reason="the ancestors' key list is not beside the repository")
def test_the_neck_and_head_have_the_ancestors_weights_in_number_and_shape(name):
    keys = json.loads(ANCESTOR.read_text())[name]
    detector = build_detector(name, num_classes=20)
    ours = sorted(tuple(p.shape) for part in (detector.neck, detector.head) for p in part.parameters())
    theirs = sorted(
        tuple(shape)
        for key, shape in keys.items()
        if not key.startswith("backbone.") and key.endswith(("weight", "bias"))
    )
    merged = [(3 * 25, c, 1, 1) for c in (256, 512, 1024)] + [(3 * 25,)] * 3
    split = [(3 * n, *rest) for n in (4, 1, 20) for rest in ((256, 1, 1), (512, 1, 1), (1024, 1, 1), (), (), ())]
    for shape in merged:
        theirs.remove(shape)
    assert ours == sorted(theirs + split)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_makes_a_detector_with_three_raw_outputs_a_level(name):
    detector = build_detector(name, num_classes=6, width=0.25, neck_width=0.25).eval()
    with torch.inference_mode():
        outputs = detector(torch.rand(2, 3, 64, 96))
    assert all(isinstance(output, HeadOutput) for output in outputs)
    assert [tuple(tuple(tensor.shape) for tensor in output) for output in outputs] == [
        ((2, 12, h, w), (2, 3, h, w), (2, 18, h, w)) for h, w in ((64 // s, 96 // s) for s in detector.backbone.strides)
    ]


def test_the_heads_outputs_have_the_names_of_the_decoders_inputs():
    assert HeadOutput._fields == LevelLogits._fields


@pytest.mark.parametrize("neck_width", [0.125, 0.25, 0.375, 0.5, 0.7, 1.0])
def test_the_neck_width_scales_all_channels_in_multiples_of_8(neck_width):
    detector = build_detector("mobilenet_v3_small", 5, neck_width=neck_width)
    outputs = [output for head in detector.head.levels for output in (head.boxes, head.objectness, head.classes)]
    layers = [layer for part in (detector.neck, detector.head) for layer in part.modules() if layer not in outputs]
    widths = {layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)}
    assert [c for c in widths if c % 8] == []
    assert max(widths) == pytest.approx(1024 * neck_width, abs=16)


def test_every_3x3_of_neck_and_head_is_depthwise():
    detector = build_detector("mobilenet_v1", 3, 0.25, 0.25)
    for part in (detector.neck, detector.head):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.kernel_size == (1, 1) or layer.groups == layer.in_channels


def test_spatial_pyramid_pooling_is_pools_of_13_9_and_5_and_the_input():
    x = torch.randn(2, 3, 16, 15)
    pools = [F.max_pool2d(x, kernel, 1, kernel // 2) for kernel in (13, 9, 5)]
    assert torch.equal(SpatialPyramidPooling()(x), torch.cat((*pools, x), dim=1))


def test_the_detector_normalises_its_images():
    torch.manual_seed(0)
    detector = build_detector("mobilenet_v2", 2, 0.25, 0.25, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)).eval()
    plain = build_detector("mobilenet_v2", 2, 0.25, 0.25, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    plain.load_state_dict(detector.state_dict())
    images = torch.rand(1, 3, 32, 32)
    by_hand = torch.stack([(images[:, c] - m) / s for c, (m, s) in enumerate(((0.5, 0.1), (0.4, 0.2), (0.3, 0.3)))], 1)
    with torch.inference_mode():
        torch.testing.assert_close(detector(images)[0].boxes, plain(by_hand)[0].boxes)


def test_an_untrained_detector_expects_one_object_in_a_hundred_cells():
    head = build_detector("mobilenet_v3_small", 10, 0.25, 0.25).head.levels[0]
    assert head.objectness.bias.tolist() == pytest.approx([math.log(0.01 / 0.99)] * 3)
    assert head.classes.bias.sigmoid().tolist() == pytest.approx([0.1] * 30)


def test_every_weight_gets_a_gradient():
    detector = build_detector("mobilenet_v3_large", 2, 0.25, 0.25)
    loss = sum(tensor.square().sum() for level in detector(torch.rand(2, 3, 64, 64)) for tensor in level)
    loss.backward()
    assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []


def test_metadata_are_enough_to_build_the_same_network():
    metadata = ModelMetadata(
        "mobilenet_v3_small", 0.5, 0.25, "same", ("a", "b"), (64, 64), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    detector = build_from_metadata(metadata)
    again = build_detector("mobilenet_v3_small", 2, 0.5, 0.25, "same", (0.5,) * 3, (0.25,) * 3)
    again.load_state_dict(detector.state_dict())
    assert detector.backbone.padding == "same"
    assert detector.std.flatten().tolist() == [0.25] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet", "num_classes": 2}, 'no backbone "resnet".*mobilenet_v3_small'),
        ({"backbone": "mobilenet_v2", "num_classes": 0}, "num_classes is 0"),
        ({"backbone": "mobilenet_v2", "num_classes": 2, "neck_width": -1}, "neck_width is -1"),
        ({"backbone": "mobilenet_v2", "num_classes": 2, "padding": "full"}, 'padding is "full"'),
        (
            {"backbone": "mobilenet_v2", "num_classes": 2, "neck_activation": "gelu"},
            'neck_activation is "gelu".*relu6, mish',
        ),
        (
            {"backbone": "mobilenet_v2", "num_classes": 2, "neck_convolution": "dilated"},
            'neck_convolution is "dilated".*separable, plain',
        ),
    ],
)
def test_bad_arguments_say_what_is_possible(arguments, message):
    with pytest.raises(SettingsError, match=message):
        build_detector(**arguments)


def test_mish_is_in_neck_and_head_alone_and_travels_in_the_metadata():
    metadata = ModelMetadata("mobilenet_v2", 0.35, 0.125, "symmetric", ("a",), (64, 64), neck_activation="mish")
    detector = build_from_metadata(ModelMetadata.from_json(metadata.to_json(), "here"))
    kinds = {name.partition(".")[0]: {type(m) for m in part.modules()} for name, part in detector.named_children()}
    for part in ("neck", "head"):
        assert nn.Mish in kinds[part]
        assert nn.ReLU6 not in kinds[part]
    assert nn.Mish not in kinds["backbone"]
    plain = build_detector("mobilenet_v2", 1, 0.35, 0.125)
    assert plain.state_dict().keys() == detector.state_dict().keys()
    assert {row.activation for row in explain(detector, (64, 64)).rows if row.part == "neck"} == {"MISH", ""}


def test_metadata_from_before_mish_and_plain_necks_mean_relu6_and_separable():
    values = json.loads(ModelMetadata("mobilenet_v2", 1.0, 0.5, "same", ("a",), (64, 64)).to_json())
    del values["neck_activation"], values["neck_convolution"], values["configuration"]
    metadata = ModelMetadata.from_json(json.dumps(values), "here")
    assert (metadata.neck_activation, metadata.neck_convolution) == ("relu6", "separable")
    assert build_from_metadata(metadata).state_dict().keys() == build_detector("mobilenet_v2", 1).state_dict().keys()


@pytest.mark.parametrize(("backbone", "separable"), [("mobilenet_v2", False), ("cspdarknet53", True)])
def test_the_neck_can_have_the_other_convolution_than_usual(backbone, separable):
    metadata = ModelMetadata(
        backbone, 0.25, 0.125, "symmetric", ("a",), (64, 64), neck_convolution="separable" if separable else "plain"
    )
    detector = build_from_metadata(ModelMetadata.from_json(metadata.to_json(), "here"))
    layers = [layer for part in (detector.neck, detector.head) for layer in part.modules()]
    kernels = [layer for layer in layers if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    assert len(kernels) == 15
    assert {layer.groups > 1 for layer in kernels} == {separable}
    with torch.inference_mode():
        assert len(detector.eval()(torch.rand(1, 3, 64, 64))) == 3
