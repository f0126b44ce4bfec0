import pytest
import torch
from lightning_fabric import Fabric

from pocketdet.models.detector import build_detector
from pocketdet.training.adversarial import STEP, hide_objects
from pocketdet.training.cross_batch_norm import CrossBatchNorm2d, cross_batch_norms


def detector_in_training():
    torch.manual_seed(0)
    detector = build_detector("mobilenet_v3_small", 2, 0.35, 0.125).train()
    detector.backbone.eval()
    with torch.no_grad():
        for level in detector.head.levels:
            level.objectness.weight.normal_(0, 0.5)
    cross_batch_norms(detector)
    return detector


def fabric(precision: str = "32-true") -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision=precision)


def test_the_attack_leaves_weights_gradients_statistics_and_modes_as_they_were():
    detector = detector_in_training()
    state = {name: value.clone() for name, value in detector.state_dict().items()}
    modes = [module.training for module in detector.modules()]
    sum(level.boxes.sum() for level in detector(torch.rand(2, 3, 64, 64))).backward()
    gradients = {n: p.grad.clone() for n, p in detector.named_parameters() if p.grad is not None}
    collected = [norm.seen for norm in detector.modules() if isinstance(norm, CrossBatchNorm2d)]
    hide_objects(detector, torch.rand(2, 3, 64, 64), fabric())
    torch.testing.assert_close(detector.state_dict(), state, rtol=0, atol=0)
    after = {n: p.grad for n, p in detector.named_parameters() if p.grad is not None}
    torch.testing.assert_close(after, gradients, rtol=0, atol=0)
    assert [norm.seen for norm in detector.modules() if isinstance(norm, CrossBatchNorm2d)] == collected
    assert [module.training for module in detector.modules()] == modes
    assert all(parameter.requires_grad for parameter in detector.parameters())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_altered_picture_is_near_and_shows_the_detector_fewer_objects(precision):
    detector = detector_in_training()
    images = torch.rand(2, 3, 64, 64).to(memory_format=torch.channels_last)
    images[:, :, :8] = 0
    altered = hide_objects(detector, images, fabric(precision))
    assert (altered - images).abs().max() <= STEP + 1e-6
    assert 0 <= altered.min() <= altered.max() <= 1
    assert not altered.requires_grad
    detector.eval()
    with torch.inference_mode():
        before, after = (sum(level.objectness.sigmoid().sum() for level in detector(x)) for x in (images, altered))
    assert after < before
