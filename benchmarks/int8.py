"""How much faster 8-bit integers are: the network alone, a float file beside its int8 file in the same runtime.

    pocketdet export animals --output animals.onnx
    pocketdet export animals --int8 --data voc12-animals --output animals8.onnx
    python benchmarks/int8.py animals.onnx animals8.onnx [FLOAT INT8 ...] [--threads 1 2] [--rounds 15]

Both take turns, ten runs each, of which the first two do not count, so that each finds its caches as it left them, as
in a stream. Letterbox and decoding, which are the same for both, are not in it: ``pocketdet benchmark`` has them.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from pocketdet.runtime.backends import open_backend

RUNS, UNCOUNTED = 10, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="float, int8, float, int8, ...")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    wish = parser.parse_args()
    if len(wish.files) % 2:
        parser.error("files come in pairs, a float one and its int8 one")

    print("| float file | int8 file | threads | float ms | int8 ms | times faster |\n|---|---|---|---|---|---|")
    for names in zip(wish.files[::2], wish.files[1::2], strict=True):
        for threads in wish.threads:
            backends = [open_backend(Path(name), threads) for name in names]
            height, width = backends[0].metadata.input_size
            picture = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
            times: list[list[float]] = [[], []]
            for _ in range(wish.rounds):
                for backend, its_times in zip(backends, times, strict=True):
                    for run in range(RUNS):
                        start = time.perf_counter()
                        backend.run(picture)
                        if run >= UNCOUNTED:
                            its_times.append(1000 * (time.perf_counter() - start))
            slow, fast = (statistics.median(its_times) for its_times in times)
            files = " | ".join(f"`{Path(name).name}`" for name in names)
            print(f"| {files} | {threads} | {slow:.2f} | {fast:.2f} | {slow / fast:.2f} |", flush=True)


if __name__ == "__main__":
    main()
