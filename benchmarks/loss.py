"""How long the loss takes, forward and backward, beside the network that it trains.

python benchmarks/loss.py [--batch 8] [--size 416] [--classes 20] [--targets 5] [--threads 1]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from pocketdet.core.metadata import ModelMetadata
from pocketdet.models.detector import build_from_metadata
from pocketdet.models.head import HeadOutput
from pocketdet.training.assigner import Targets
from pocketdet.training.loss import DetectionLoss

ROUNDS = 3
LOSSES_PER_ROUND = 20  # a loss is short; the network is not


def milliseconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000


def random_targets(batch: int, size: int, classes: int, per_picture: int) -> Targets:
    count = batch * per_picture
    centre, half = torch.rand(count, 2) * size, torch.rand(count, 2) * size / 4 + 4
    boxes = torch.cat((centre - half, centre + half), dim=1).clamp(0, size)
    pictures = torch.arange(batch).repeat_interleave(per_picture)
    return Targets(boxes=boxes, class_ids=torch.randint(classes, (count,)), pictures=pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 8), ("size", 416), ("classes", 20), ("targets", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wish = parser.parse_args()
    torch.set_num_threads(wish.threads)
    torch.manual_seed(0)
    names = tuple(str(number) for number in range(wish.classes))
    metadata = ModelMetadata("mobilenet_v2", 1.0, 0.5, "symmetric", names, (wish.size, wish.size))
    detector = build_from_metadata(metadata).train().to(memory_format=torch.channels_last)
    loss = DetectionLoss(metadata)
    images = torch.rand(wish.batch, 3, wish.size, wish.size).to(memory_format=torch.channels_last)
    targets = random_targets(wish.batch, wish.size, wish.classes, wish.targets)
    with torch.no_grad():
        logits = [HeadOutput(*(tensor.float() for tensor in level)) for level in detector(images)]
    leaves = [HeadOutput(*(tensor.clone().requires_grad_() for tensor in level)) for level in logits]

    def loss_alone() -> None:
        loss(leaves, targets).total.backward()

    def network() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = detector(images)
        sum(tensor.float().sum() for level in outputs for tensor in level).backward()

    loss_alone()
    losses, networks = [], []
    for _ in range(ROUNDS):
        losses += [milliseconds(loss_alone) for _ in range(LOSSES_PER_ROUND)]
        networks.append(milliseconds(network))
    loss_time, network_time = statistics.median(losses), statistics.median(networks)
    print(f"batch {wish.batch}, {wish.size} px, {wish.classes} classes, {wish.targets} targets a picture, "
          f"{wish.threads} thread(s), medians, forward + backward")  # fmt: skip
    print(f"loss                          {loss_time:8.1f} ms (fastest {min(losses):.1f})")
    print(f"MobileNet V2, neck 0.5, bf16  {network_time:8.1f} ms")
    print(f"loss / network                {loss_time / network_time:8.4f}")


if __name__ == "__main__":
    main()
