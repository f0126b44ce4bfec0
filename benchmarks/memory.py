"""Whether a training grows: the resident memory after every epoch, without and with workers.

python benchmarks/memory.py DATA [--epochs 50] [--size 96] [--every 5]

A whole run of a small network, with evaluations and checkpoints. In the first epochs the caches of decoded pictures and
the buffers fill; what counts is the slope over the second half.
"""

import argparse
import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from pocketdet.training import TrainSettings, train
from pocketdet.training.run import Run

GROWTH = 0.5  # MiB an epoch; a leak of one batch of 96 px pictures an epoch would be 0.4
WORKERS = (0, 2)


def resident_mebibytes(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def serve(pipe: Connection, data: Path, settings: TrainSettings) -> None:
    """Train, and send after every epoch the memory of this process and of its workers together."""
    close_epoch = Run.close_epoch

    def close_and_send(run: Run) -> dict[str, float]:
        workers = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
        pipe.send((resident_mebibytes(os.getpid()), sum(map(resident_mebibytes, workers))))
        return close_epoch(run)

    Run.close_epoch = close_and_send  # type: ignore[method-assign]
    train(data, settings)


def measure(data: Path, settings: TrainSettings) -> np.ndarray:
    """``(epochs, 2)`` MiB of the training process and of its workers."""
    context = multiprocessing.get_context("spawn")
    pipe, there = context.Pipe()
    process = context.Process(target=serve, args=(there, data, settings))
    process.start()
    there.close()
    rows = [pipe.recv() for _ in range(settings.epochs)]
    process.join()
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    for name, default in (("epochs", 50), ("size", 96), ("every", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wish = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in WORKERS:
            settings = TrainSettings(
                model="mobilenet_v3_small", width=0.35, neck_width=0.125, size=wish.size, epochs=wish.epochs,
                batch_size=8, workers=workers, output=Path(folder) / str(workers),
            )  # fmt: skip
            found[workers] = measure(wish.data, settings)
    print(f"{wish.data.name}, {wish.size} px, MiB resident: the training, its workers together")
    print("epoch " + "".join(f"{workers:>9} workers   " for workers in WORKERS))
    for epoch in [1, *range(wish.every, wish.epochs + 1, wish.every)]:
        print(f"{epoch:5} " + "".join("{:10.1f}{:10.1f}".format(*found[workers][epoch - 1]) for workers in WORKERS))
    half = wish.epochs // 2
    for workers, rows in found.items():
        slopes = [np.polyfit(np.arange(len(part)), part.sum(axis=1), 1)[0] for part in (rows[5:], rows[half:])]
        verdict = "grows" if slopes[1] > GROWTH else "does not grow"
        print(f"{workers} workers: {slopes[0]:+.2f} MiB an epoch after the fifth, {slopes[1]:+.2f} in the second half: "
              f"{verdict}")  # fmt: skip


if __name__ == "__main__":
    main()
