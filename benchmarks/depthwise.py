"""How long the gradient of a strided depthwise 3x3 convolution takes: torch's own against ``strided_depthwise``.

python benchmarks/depthwise.py [--batch 8] [--size 416] [--threads 2]

The shapes are those of MobileNet V2 and of a neck of width 0.5.
"""

import argparse
import statistics
import time

import torch

from pocketdet.models.depthwise import strided_depthwise
from pocketdet.training.memory import keep_freed_memory

SHAPES = ((96, 2), (144, 4), (192, 8), (576, 16), (64, 8), (128, 16))  # channels, stride of the input
ROUNDS = 7


def milliseconds(y: torch.Tensor, inputs: tuple[torch.Tensor, ...], gradient: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.autograd.grad(y, inputs, gradient, retain_graph=True)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 8), ("size", 416), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wish = parser.parse_args()
    torch.set_num_threads(wish.threads)
    keep_freed_memory()
    print(
        f"batch {wish.batch}, {wish.size} px, bfloat16, {wish.threads} thread(s), backward, medians of {ROUNDS} in ms"
    )
    for channels, stride in SHAPES:
        side = wish.size // stride
        x = torch.randn(wish.batch, channels, side, side, dtype=torch.bfloat16)
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels, 1, 3, 3, dtype=torch.bfloat16).requires_grad_()
        theirs = torch.conv2d(x, weight, None, 2, 1, groups=channels)
        ours = strided_depthwise(x, weight, 2, 1)
        gradient = torch.randn_like(theirs)
        times = [[milliseconds(y, (x, weight), gradient) for y in (theirs, ours)] for _ in range(ROUNDS)]
        their_time, our_time = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{channels:4} channels, {side:3} px   torch {their_time:6.1f}   ours {our_time:6.1f}   "
              f"ratio {their_time / our_time:5.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
