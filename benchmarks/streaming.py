"""Many pictures: the rate of a stream beside that of one picture after the other, and the memory over thousands.

python benchmarks/streaming.py MODEL [--rounds 9] [--pictures 12] [--size 1080 1920] [--threads 2]
       [--many 5000] [--names 100000]

One after the other is a loop over ``predict`` with the network on all threads (and once with it on one), a stream is
one ``iter_predict``. Blocks of all take turns. "processor" is the processor time of all threads a picture, which other
programs do not add to; where a stream costs no more of it than the loop on one thread, and all cores are free, its rate
is that of one thread times the cores. --many counts small pictures, --names files in a folder, over which resident
memory is watched.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pocketdet.loading import ASSETS, load
from pocketdet.runtime.predictor import Predictor
from pocketdet.runtime.sources import iter_pictures


def write_pictures(folder: Path, number: int, size: tuple[int, int]) -> list[Path]:
    """JPEGs with a camera's noise."""
    with Image.open(ASSETS / "astronaut.jpg") as photo:
        pixels = np.asarray(photo.resize(size[::-1], Image.Resampling.BICUBIC), np.float32)
    rng = np.random.default_rng(0)
    paths = [folder / f"{n}.jpg" for n in range(number)]
    for path in paths:
        noisy = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=90)
    return paths


def resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def loop(predictor: Predictor, paths: list[Path]) -> None:
    for path in paths:
        predictor.predict(path)


def stream(predictor: Predictor, paths: list[Path]) -> None:
    for _ in predictor.iter_predict(paths):
        pass


def compare(wish: argparse.Namespace, folder: Path) -> None:
    paths = write_pictures(folder, wish.pictures, tuple(wish.size))
    one, all_threads = load(wish.model, 1), load(wish.model, wish.threads)
    blocks: dict[str, Callable[[], None]] = {
        "one after the other, 1 thread": lambda: loop(one, paths),
        f"one after the other, {wish.threads} threads": lambda: loop(all_threads, paths),
        f"stream, {wish.threads} threads": lambda: stream(all_threads, paths),
    }
    wall: dict[str, list[float]] = {name: [] for name in blocks}
    processor: dict[str, list[float]] = {name: [] for name in blocks}
    for block in blocks.values():
        block()
    for _ in range(wish.rounds):
        for name, block in blocks.items():
            start, used = time.perf_counter(), time.process_time()
            block()
            wall[name].append((time.perf_counter() - start) * 1000 / len(paths))
            processor[name].append((time.process_time() - used) * 1000 / len(paths))
    print(f"{wish.model}, JPEGs of {wish.size[1]} x {wish.size[0]}; ms a picture, medians (minima) of {wish.rounds}")
    last = list(blocks)[-1]
    for name in blocks:
        cells = "".join(f"{statistics.median(t):9.1f} ({min(t):5.1f})" for t in (wall[name], processor[name]))
        rate = statistics.median(a / b for a, b in zip(wall[name], wall[last], strict=True))
        busy = statistics.median(p / w for p, w in zip(processor[name], wall[name], strict=True))
        print(f"{name:34}{cells}  stream's rate {rate:4.2f} times; {busy:.2f} cores in use")


def watch_memory(wish: argparse.Namespace) -> None:
    predictor = load(wish.model, wish.threads)

    def pictures() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(wish.many):
            yield rng.integers(0, 256, (96, 128, 3), np.uint8)

    print(f"\n{wish.many} pictures from a generator; resident memory")
    step = max(1, wish.many // 10)
    for number, _ in enumerate(predictor.iter_predict(pictures()), start=1):
        if number % step == 0 or number == 50:
            print(f"after {number:6}: {resident():7.1f} MiB", flush=True)


def watch_names(number: int, folder: Path) -> None:
    """The memory that the names of a large folder take while its pictures are gone through."""
    for n in range(number):
        (folder / f"IMG_{n:06}.jpg").touch()
    before, peak = resident(), 0.0
    for n, _ in enumerate(iter_pictures(folder)):
        if n % 1000 == 0:
            peak = max(peak, resident())
    print(f"\n{number} names in a folder: {peak - before:.1f} MiB more while they are gone through")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--size", type=int, nargs=2, default=(1080, 1920))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--many", type=int, default=5000)
    parser.add_argument("--names", type=int, default=100_000)
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(wish, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        watch_names(wish.names, Path(folder))
    if wish.many:
        watch_memory(wish)


if __name__ == "__main__":
    main()
