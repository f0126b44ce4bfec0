import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import DataError, ImageError
from pocketdet.models import build_from_metadata
from pocketdet.models.activity import MAX_PICTURES, find_constant, find_pictures
from pocketdet.models.blocks import ConvBlock
from pocketdet.models.detector import Detector
from pocketdet.models.kernel_health import advise, count_dead, kernel_health

METADATA = ModelMetadata("mobilenet_v1", 0.25, 0.125, "same", ("cat",), (64, 64))
LAYER = "backbone.features.3.0.0"
START_WEIGHTS = Path(__file__).parents[2] / "../shared/weights/mobilenet_v1_1.0_imagenet.safetensors"


@pytest.fixture
def detector() -> Detector:
    """Random weights, and batch norms that have seen noise."""
    torch.manual_seed(0)
    detector = build_from_metadata(METADATA).train()
    with torch.no_grad():
        for _ in range(20):
            detector(torch.rand(4, 3, 64, 64))
    return detector.eval()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / f"{number}.png")
    return find_pictures(tmp_path, "val")


def block_of(detector: nn.Module, layer: str = LAYER) -> ConvBlock:
    return detector.get_submodule(layer.rpartition(".")[0])


def health_of(detector: nn.Module, layer: str = LAYER, **arguments: object) -> dict[str, int]:
    found = next(health for health in kernel_health(detector, **arguments) if health.layer == layer)
    return {name: value for name, value in found._asdict().items() if name != "layer" and value}


def test_a_healthy_network_has_no_dead_kernel(detector: Detector) -> None:
    assert count_dead(detector) == 0
    assert advise(kernel_health(detector)) == []


@torch.no_grad()
def test_every_kernel_is_counted_under_its_first_cause(detector: Detector) -> None:
    layer, norm, _ = block_of(detector)
    layer.weight[0] = 0
    norm.weight[0] = 0
    norm.weight[1] = 1e-4
    norm.running_var[2] = 1e-12
    norm.bias[3:5] = -20
    norm.bias[5] = 40  # always at ReLU6's upper end
    assert health_of(detector) == {"kernels": 32, "dead": 6, "weights": 1, "scale": 1, "input": 1, "bias": 3}
    assert count_dead(detector) == 6


@torch.no_grad()
def test_h_swish_is_dead_where_its_flat_arm_holds_it() -> None:
    network = build_from_metadata(ModelMetadata("mobilenet_v3_small", 0.35, 0.125, "same", ("cat",), (64, 64)))
    layer = "backbone.features.5.block.1.0"
    norm = block_of(network, layer)[1]
    norm.bias[0], norm.bias[1] = -12, -6  # 6 standard deviations reach -6, and 0
    assert health_of(network, layer)["bias"] == 1


@torch.no_grad()
def test_pictures_find_what_weights_do_not_tell(detector: Detector, pictures: list[Path]) -> None:
    norm = block_of(detector)[1]
    assert health_of(detector, constant=find_constant(detector, METADATA, pictures)) == {"kernels": 32}
    norm.bias[7] = -5.5  # not 6 standard deviations below zero
    norm.bias[9] = -20
    norm.running_mean[7] += 5 * (norm.running_var[7] + norm.eps).sqrt()
    found = health_of(detector, constant=find_constant(detector, METADATA, pictures))
    assert found == {"kernels": 32, "dead": 2, "bias": 1, "pictures": 1}
    assert all(not module._forward_hooks for module in detector.modules())


def test_weight_decay_without_measure_kills_kernels_and_is_named(detector: Detector) -> None:
    """As AdamW does it where gradients are small: the weights shrink, batch norm hides it, until eps takes over."""
    depthwise = [
        block[0].weight for block in detector.modules() if isinstance(block, ConvBlock) and block[0].groups > 1
    ]
    others = [parameter for parameter in detector.parameters() if not any(parameter is weight for weight in depthwise)]
    optimizer = torch.optim.AdamW(
        [{"params": depthwise, "weight_decay": 400.0, "lr": 2e-3}, {"params": others, "weight_decay": 0.0, "lr": 1e-4}]
    )
    detector.train()
    for _ in range(12):
        optimizer.zero_grad()
        sum(output.objectness.square().mean() for output in detector(torch.rand(2, 3, 64, 64))).backward()
        for weight in depthwise:
            weight.grad = None if weight.grad is None else torch.zeros_like(weight)
        optimizer.step()
    health = kernel_health(detector)
    assert sum(layer.weights for layer in health) > 0.9 * sum(layer.kernels for layer in health)
    assert any("--weight-decay 0" in line for line in advise(health))


def test_advice_follows_the_cause(detector: Detector) -> None:
    dead = copy.deepcopy(detector)
    for block in dead.modules():
        if isinstance(block, ConvBlock) and block[0].groups > 1:
            nn.init.constant_(block[1].bias, -20)
    lines = " ".join(advise(kernel_health(dead)))
    assert "--learning-rate" in lines
    assert "--freeze-batch-norm" in lines
    assert "--drop-dead" in lines
    assert "--weight-decay" not in lines


def test_pictures_come_from_a_folder_or_a_data_set(tmp_path: Path, pictures: list[Path]) -> None:
    assert [path.name for path in pictures] == ["0.png", "1.png", "2.png"]
    for part in ("images/val", "labels/val"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for number in range(MAX_PICTURES + 1):
        (tmp_path / f"data/images/val/{number}.png").write_bytes(pictures[0].read_bytes())
        (tmp_path / f"data/labels/val/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data/data.yaml").write_text("val: images/val\nnames: [thing]\n")
    assert MAX_PICTURES / 2 < len(find_pictures(tmp_path / "data", "val")) <= MAX_PICTURES
    with pytest.raises(DataError, match="test"):
        find_pictures(tmp_path / "data", "test")
    with pytest.raises(ImageError, match="no such file or folder"):
        find_pictures(tmp_path / "absent", "val")


@pytest.mark.skipif(not START_WEIGHTS.exists(), reason="the real start weights are not here")
def test_googles_mobilenet_v1_has_silent_layers_in_its_first_blocks() -> None:
    from pocketdet.models import build_backbone, load_start_weights

    backbone = build_backbone("mobilenet_v1", padding="same")
    load_start_weights(backbone, START_WEIGHTS)
    health = kernel_health(backbone)
    assert sum(layer.input for layer in health) == 20
    assert health[0].input == 7
