import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from pocketdet.models import build_backbone, build_classifier, build_detector, explain
from pocketdet.models.detector import build_darknet

CFGS = Path(__file__).parent / "darknet" / "cfgs.py"
NETWORKS = {"cspdarknet53": "yolov4", "cspdarknet53_tiny": "yolov4_tiny"}


def configuration(name, *arguments):
    """Darknet's configuration of the network, which is written apart from ours."""
    spec = importlib.util.spec_from_file_location("cfgs", CFGS)
    cfgs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cfgs)
    return getattr(cfgs, NETWORKS[name])(*arguments)


def convolutions(detector, size):
    """Convolutions, each with the batch norm behind it if there is one, in the order in which they run."""
    order = []

    def note(layer, *_):
        if isinstance(layer, nn.BatchNorm2d):
            order[-1].append(layer)
        else:
            order.append(nn.ModuleList([layer]))

    for layer in detector.modules():
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
            layer.register_forward_hook(note)
    with torch.inference_mode():
        detector.eval()(torch.zeros(1, 3, size, size, device=next(detector.parameters()).device))
    return order


def shape(layers):
    return (layers[0].stride, layers[0].padding, layers[0].groups, *(tuple(p.shape) for p in layers.parameters()))


@pytest.mark.parametrize(("name", "count"), [("cspdarknet53", 64_363_101), ("cspdarknet53_tiny", 6_056_606)])
def test_the_detector_is_darknets_layer_by_layer(name, count):
    with torch.device("meta"):
        ours, theirs = build_detector(name, num_classes=80), build_darknet(configuration(name))
    assert sum(parameter.numel() for parameter in ours.parameters()) == count
    found = [[shape(layer) for layer in convolutions(detector, 64)] for detector in (ours, theirs)]
    levels = len(ours.backbone.strides)
    assert len(found[0]) == {"cspdarknet53": 107, "cspdarknet53_tiny": 19}[name] + 3 * levels
    assert sorted(found[0]) == sorted(found[1])
    backbone = {"cspdarknet53": 72, "cspdarknet53_tiny": 15}[name]
    assert found[0][:backbone] == found[1][:backbone]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_detector_computes_what_darknets_computes(name):
    torch.manual_seed(0)
    detector, theirs = build_detector(name, 3, 0.25, 0.25, mean=(0,) * 3, std=(1,) * 3), None
    theirs = build_darknet(configuration(name, 3, 0.25, 64))
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.0)
            nn.init.normal_(layer.running_mean, 0, 0.1)
    sources, targets = convolutions(detector, 64), convolutions(theirs, 64)
    if name == "cspdarknet53":  # layers of one shape run in one order, but for these
        neck = detector.neck
        for pair in ((neck.lateral_p4, neck.reduce_p5), (neck.lateral_p3, neck.reduce_p4)):
            a, b = ([layers[0] for layers in sources].index(block[0]) for block in pair)
            sources[a], sources[b] = sources[b], sources[a]
    left = list(sources)
    for target in targets:
        source = next(layer for layer in left if shape(layer) == shape(target))
        left.remove(source)
        target.load_state_dict(source.state_dict())
    assert left == []
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        for ours, other in zip(detector(images), theirs(images), strict=True):
            for a, b in zip(ours, other, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_published_classifier_has_27_million_parameters():
    with torch.device("meta"):
        network = build_classifier("cspdarknet53")
    assert sum(parameter.numel() for parameter in network.parameters()) == 27_642_184


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [("cspdarknet53", (256, 512, 1024), (8, 16, 32)), ("cspdarknet53_tiny", (256, 512), (16, 32))],
)
def test_the_pyramid_has_darknets_channels(name, channels, strides):
    with torch.device("meta"):
        backbone = build_backbone(name)
    assert (backbone.out_channels, backbone.strides) == (channels, strides)


def test_explain_counts_yolov4():
    explanation = explain("cspdarknet53")
    assert explanation.totals()["parameters"] == 64_363_101
    assert round(explanation.totals()["multiply_adds"] / 1e9, 1) == 30.1  # darknet counts 60.1 BFLOPs
    activations = {row.part: row.activation for row in explanation.rows if row.activation}
    assert activations == {"backbone": "MISH", "neck": "LEAKY", "head": "LEAKY"}


def test_explain_reads_a_configuration(tmp_path):
    path = tmp_path / "small.cfg"
    path.write_text(configuration("cspdarknet53_tiny", 80, 1.0, 416))
    explanation = explain(str(path))
    assert explanation.title == f"{path}, 416 x 416 pixels"
    assert explanation.totals()["parameters"] == 6_056_606
    assert round(explanation.totals()["multiply_adds"] / 1e9, 2) == 3.45  # darknet counts 6.9 BFLOPs
