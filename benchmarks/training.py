"""Pictures a second of whole training steps: mosaic, network, loss, optimizer, moving average.

python benchmarks/training.py DATA [--rounds 5] [--batch 8] [--size 416] [--threads 2] [--steps 12]

Compared are the step that people run today (``training_baseline.py``) and ours. Every one lives in a process of its
own and they take turns, a step each, so that a busy machine slows all of them; the ratios are worth more than the
seconds.
"""

import argparse
import dataclasses
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from loss import milliseconds, random_targets
from rich.console import Console
from training_baseline import baseline_steps, looped_loss

from pocketdet.core.metadata import ModelMetadata
from pocketdet.models.detector import build_from_metadata
from pocketdet.models.head import HeadOutput
from pocketdet.training import TrainSettings
from pocketdet.training.loss import DetectionLoss
from pocketdet.training.memory import keep_freed_memory
from pocketdet.training.pictures import CACHE_BYTES
from pocketdet.training.prepare import prepare

OURS = {
    "(b) the same network, our loop": {"neck_width": 1.0},
    "(c) V2, neck 0.5": {"neck_width": 0.5},
    "(d) V2, neck 0.5, fixed backbone": {"neck_width": 0.5, "freeze_epochs": 10**6},
}
BASELINE = "(a) fp32, NCHW, loops"
ASKED = {"(b)": 2.5, "(c)": 3.0}


class TimedLoader:
    """Notes how long the training waited for its batches."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.waited = 0.0

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve_baseline(pipe: Connection, data: Path, size: int, batch: int, threads: int) -> None:
    torch.set_num_threads(threads)
    steps = baseline_steps(data, size, batch)
    while count := pipe.recv():
        parts = [next(steps) for _ in range(count)]
        pipe.send(tuple(sum(part[name] for part in parts) for name in ("step", "data")))


def serve_ours(pipe: Connection, data: Path, settings: TrainSettings, threads: int) -> None:
    """Train; after as many steps as the other side asked for, send ``(seconds, seconds waiting for data)`` and wait."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    run, _, _ = prepare(data, settings, Console(quiet=True))
    before = resident_bytes()
    for _ in run.loader:  # fills the cache of decoded pictures
        pass
    pipe.send(resident_bytes() - before)
    loader = TimedLoader(run.loader)
    run = dataclasses.replace(run, loader=loader)
    left, start = pipe.recv(), time.perf_counter()

    def advance() -> None:
        """Called between the backward pass of one step and the optimizer of the same."""
        nonlocal left, start
        left -= 1
        if left == 0:
            pipe.send((time.perf_counter() - start, loader.waited))
            left, loader.waited, start = pipe.recv(), 0.0, time.perf_counter()
            if left == 0:
                raise SystemExit

    while True:
        run.train_epoch(advance, ())
        run.progress.epoch, run.progress.batch = run.progress.epoch + 1, 0


class Trainer:
    """A process that trains when told to."""

    def __init__(self, serve: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there, *arguments))
        self.process.start()
        there.close()

    def train(self, steps: int) -> tuple[float, float]:
        """Seconds, and those of them spent waiting for data."""
        self.pipe.send(steps)
        seconds, waited = self.pipe.recv()
        return seconds, waited

    def stop(self) -> None:
        self.pipe.send(0)
        self.process.join()


def compare(wish: argparse.Namespace, settings: TrainSettings, folder: Path) -> None:
    trainers = {BASELINE: Trainer(serve_baseline, wish.data, wish.size, wish.batch, wish.threads)}
    cache = 0
    for number, (name, changes) in enumerate(OURS.items()):
        own = dataclasses.replace(settings, output=folder / str(number), **changes)
        trainers[name] = Trainer(serve_ours, wish.data, own, wish.threads)
        cache = trainers[name].pipe.recv()
    for trainer in trainers.values():
        trainer.train(2)  # the first steps prepare buffers
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    for _ in range(wish.rounds):
        for name, trainer in trainers.items():
            times[name].append(trainer.train(1))
    for trainer in trainers.values():
        trainer.stop()

    print(f"{'':34}{'s a step':>9}{'pictures/s':>12}{'x (a)':>7}{'without data':>14}{'asked':>7}")
    first_seconds = statistics.median(seconds for seconds, _ in times[BASELINE])
    first_network = statistics.median(seconds - waited for seconds, waited in times[BASELINE])
    for name, measured in times.items():
        seconds = statistics.median(seconds for seconds, _ in measured)
        network = statistics.median(seconds - waited for seconds, waited in measured)
        asked = f"{ASKED[name[:3]]:7.1f}" if name[:3] in ASKED else ""
        print(f"{name:34}{seconds:9.2f}{wish.batch / seconds:12.2f}{first_seconds / seconds:7.2f}"
              f"{first_network / network:14.2f}{asked}")  # fmt: skip
    item = statistics.median(waited for name in OURS for _, waited in times[name]) / wish.batch * 1000
    their_item = statistics.median(waited for _, waited in times[BASELINE]) / wish.batch * 1000
    print(f"a mosaic item, by the loader: ours {item:.1f} ms (asked: 6), (a) {their_item:.1f} ms")
    print(f"decoded pictures in memory: {cache / 2**20:.0f} MiB for this data set, {CACHE_BYTES / 2**20:.0f} at most")


def compare_losses(wish: argparse.Namespace) -> None:
    torch.set_num_threads(wish.threads)
    torch.manual_seed(0)
    names = tuple(map(str, range(6)))
    metadata = ModelMetadata("mobilenet_v2", 1.0, 0.5, "symmetric", names, (wish.size, wish.size))
    detector, ours = build_from_metadata(metadata), DetectionLoss(metadata)
    targets = random_targets(wish.batch, wish.size, len(names), 10)
    rows = torch.cat((targets.boxes, targets.class_ids[:, None]), dim=1).split(10)
    with torch.no_grad():
        outputs = detector(torch.rand(wish.batch, 3, wish.size, wish.size))
    leaves = [HeadOutput(*(tensor.clone().requires_grad_() for tensor in level)) for level in outputs]
    pair = (
        lambda: ours(leaves, targets).total.backward(),
        lambda: looped_loss(leaves, list(rows), metadata).backward(),
    )
    times = [[milliseconds(action) for action in pair] for _ in range(12)][2:]
    our_time, their_time = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"loss, forward + backward, 10 targets a picture: ours {our_time:.1f} ms, looped {their_time:.1f} ms, "
          f"ratio {our_time / their_time:.2f} (asked: 0.20)")  # fmt: skip


def share_of_data(wish: argparse.Namespace, settings: TrainSettings, folder: Path) -> None:
    for workers in (0, 2):
        own = dataclasses.replace(settings, workers=workers, output=folder / f"workers{workers}")
        trainer = Trainer(serve_ours, wish.data, own, wish.threads)
        trainer.pipe.recv()
        trainer.train(3)
        seconds, waited = trainer.train(wish.steps)
        trainer.stop()
        print(f"(c) with {workers} workers, {wish.steps} steps in a row: {wish.steps * wish.batch / seconds:.2f} "
              f"pictures/s, {waited / seconds:.1%} of the time waiting for data (asked: 10 %)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    for name, default in (("rounds", 5), ("batch", 8), ("size", 416), ("threads", 2), ("steps", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wish = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{wish.data.name}, batch {wish.batch}, {wish.size} px, {wish.threads} threads, medians of {wish.rounds} "
          f"rounds; load average before: {load:.1f}")  # fmt: skip
    settings = TrainSettings(
        size=wish.size, batch_size=wish.batch, epochs=10**6, mosaic=1.0, plain_epochs=0.0, checkpoint_minutes=1e9
    )
    with tempfile.TemporaryDirectory() as folder:
        compare(wish, settings, Path(folder))
        compare_losses(wish)
        share_of_data(wish, settings, Path(folder))


if __name__ == "__main__":
    main()
