import pytest
import torch

from pocketdet.models import build_detector
from pocketdet.models.drop_block import DropBlock


def drop(probability: float) -> DropBlock:
    module = DropBlock().train()
    module.probability = probability
    return module


@pytest.mark.parametrize(("height", "width"), [(26, 20), (5, 9), (2, 2)])
def test_the_share_of_dropped_cells_is_what_independent_blocks_give(height, width):
    torch.manual_seed(0)
    rows, columns = min(7, height), min(7, width)
    rate = 0.1 * height * width / (rows * columns * (height - rows + 1) * (width - columns + 1))
    covering = torch.ones(height - rows + 1, width - columns + 1)[None, None]
    starts = torch.conv_transpose2d(covering, torch.ones(1, 1, rows, columns))  # blocks that would cover a cell
    expected = 1 - ((1 - rate) ** starts).mean()
    dropped = (drop(0.1)(torch.ones(200, 64, height, width)) == 0).float().mean()
    assert dropped.item() == pytest.approx(
        expected.item(), abs=0.006
    )  # 64 * 200 maps: two standard deviations for the smallest
    assert 0.07 < dropped < 0.11


def test_what_is_dropped_are_blocks_of_7_and_the_rest_keeps_the_mean():
    torch.manual_seed(1)
    x = torch.ones(4, 8, 26, 26)
    y = drop(0.05)(x)
    zeros = (y == 0).float()
    assert zeros.sum() > 0
    full = torch.nn.functional.pad(-torch.max_pool2d(-zeros, 7, 1), [6] * 4)  # places where a whole block is zero
    assert torch.equal(torch.max_pool2d(full, 7, 1), zeros), "a zero outside of every block"
    assert y.mean().item() == pytest.approx(1, abs=1e-5)


def test_the_same_seed_drops_the_same_blocks_and_channels_differ():
    x = torch.ones(2, 16, 20, 20)
    torch.manual_seed(3)
    first = drop(0.2)(x)
    torch.manual_seed(3)
    assert torch.equal(first, drop(0.2)(x))
    assert not torch.equal(first[0, 0], first[0, 1])


def test_in_evaluation_nothing_is_touched_and_no_file_knows_of_it():
    detector = build_detector("mobilenet_v3_small", 2, 0.35, 0.125).eval()
    images = torch.rand(1, 3, 64, 64)
    before = detector(images)[0].boxes
    detector.neck.drop.probability = 0.9
    assert torch.equal(detector(images)[0].boxes, before)
    assert not [key for key in detector.state_dict() if "drop" in key]
    assert not torch.equal(detector.train()(images.expand(2, -1, -1, -1))[0].boxes[:1], before)


def test_the_type_of_the_map_stays():
    assert drop(0.2)(torch.ones(1, 8, 13, 13, dtype=torch.bfloat16)).dtype == torch.bfloat16
