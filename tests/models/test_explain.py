import json

import pytest
import torch
from torch import nn

from pocketdet.errors import SettingsError
from pocketdet.models import build_backbone, build_classifier, build_detector, count_multiply_adds, explain
from pocketdet.models.kernel_health import kernel_health


def test_the_rows_add_up_to_the_network():
    detector = build_detector("mobilenet_v3_large", 7, 0.5, 0.25)
    totals = explain(detector, (96, 64)).totals()
    assert totals["parameters"] == sum(parameter.numel() for parameter in detector.parameters())
    assert totals["multiply_adds"] == count_multiply_adds(detector, (96, 64))


@pytest.mark.parametrize(
    ("name", "millions"),  # V1 Table 4, V2 Table 4, V3 Tables 3 and 4
    [("mobilenet_v1", 569), ("mobilenet_v2", 300), ("mobilenet_v3_large", 219), ("mobilenet_v3_small", 56)],
)
def test_the_classification_networks_cost_what_their_papers_say(name, millions):
    assert count_multiply_adds(build_classifier(name), (224, 224)) / 1e6 == pytest.approx(millions, rel=0.035)


def test_plain_convolutions_would_cost_what_the_mobilenet_v1_paper_says():
    explanation = explain(build_classifier("mobilenet_v1"), (224, 224))
    totals = explanation.totals()  # Table 4: 4866 million multiply-adds and 29.3 million parameters
    assert totals["plain_multiply_adds"] / 1e6 == pytest.approx(4866, rel=0.005)
    assert totals["plain_parameters"] / 1e6 == pytest.approx(29.3, rel=0.005)


def test_a_row_worked_by_hand():
    row = explain("mobilenet_v2", (64, 64), num_classes=2).rows[2]
    assert (row.part, row.name, row.operator) == ("backbone", "backbone.features.2", "bottleneck 3x3")
    assert (row.input, row.expansion, row.out_channels, row.stride) == ((32, 32, 16), 96, 24, 2)
    assert row.parameters == 16 * 96 + 96 * 9 + 96 * 24 + 2 * (96 + 96 + 24)
    assert row.multiply_adds == 16 * 96 * 32 * 32 + 96 * 9 * 16 * 16 + 96 * 24 * 16 * 16
    assert row.plain_multiply_adds == 16 * 96 * 32 * 32 + 96 * 24 * 9 * 16 * 16
    assert row.plain_parameters == 16 * 96 + 96 * 24 * 9 + 2 * (96 + 24)


def test_the_table_has_a_line_a_block_and_the_totals():
    explanation = explain("mobilenet_v1", num_classes=80)
    text = explanation.to_text()
    assert "separable 3x3" in text
    assert "max pools 13, 9, 5" in text
    assert "total: 12,692,029 parameters, 5.21 G multiply-adds" in text
    assert len(text.splitlines()) == len(explanation.rows) + 6


def test_the_explanation_survives_json():
    explanation = explain("mobilenet_v3_small", (64, 64), 0.5, 0.25, 3)
    values = json.loads(json.dumps(explanation.to_dict()))
    assert values["totals"] == explanation.totals()
    assert {row["part"] for row in values["rows"]} == {"backbone", "neck", "head"}


def test_explaining_leaves_the_network_as_it_was():
    detector = build_detector("mobilenet_v3_small", 2, 0.25, 0.25).train()
    explain(detector, (64, 64))
    assert detector.training
    assert next(detector.parameters()).device.type == "cpu"
    assert all(not module._forward_hooks for module in detector.modules())


def test_kernel_health_finds_the_kernels_that_died():
    backbone = build_backbone("mobilenet_v1", 0.25)
    depthwise = backbone.features[1][0][0]
    nn.init.normal_(depthwise.weight, 1, 0.1)
    with torch.no_grad():
        depthwise.weight[:2] = 1e-4
    first = kernel_health(backbone)[0]
    assert (first.layer, first.kernels, first.dead, first.weights) == ("features.1.0.0", 8, 2, 2)
    assert len(kernel_health(backbone)) == 13


def test_explaining_a_network_with_weights_names_its_dead_kernels():
    detector = build_detector("mobilenet_v3_small", 2, 0.25, 0.25)
    assert "dead depthwise kernels: 0 of" in explain(detector, (64, 64)).to_text()
    with torch.no_grad():
        detector.neck.down_p3[0][0].weight[5] = 0
    explanation = explain(detector, (64, 64))
    assert "neck.down_p3.0.0: 1 of 32 (weights 1)" in explanation.to_text()
    ill = next(layer for layer in explanation.to_dict()["kernel_health"] if layer["dead"])
    assert (ill["layer"], ill["kernels"], ill["dead"], ill["weights"]) == ("neck.down_p3.0.0", 32, 1, 1)
    assert explain("mobilenet_v3_small", (64, 64)).health == ()


def test_a_size_that_32_does_not_divide_is_refused():
    with pytest.raises(SettingsError, match="multiples of 32"):
        explain("mobilenet_v2", (100, 100))
