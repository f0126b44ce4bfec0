"""Where the time goes from a picture file to boxes, of one or several exported models.

python benchmarks/speed.py PICTURE MODEL.onnx [MODEL.onnx ...] [--rounds 30] [--threads 1]

All models take turns, so that a busy machine slows all of them; the ratios are worth more than the milliseconds.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pocketdet.core.decode import decode_picture
from pocketdet.core.images import read_image
from pocketdet.core.letterbox import Letterbox
from pocketdet.runtime.backends import OnnxBackend
from pocketdet.runtime.predictor import IOU_THRESHOLD, SCORE_THRESHOLD

PARTS = ("read", "network", "boxes")  # decode and letterbox; the network; decoding and NMS


class Stopwatch:
    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {part: [] for part in PARTS}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.times[part].append((time.perf_counter() - start) * 1000)

    def medians(self) -> list[float]:
        """Of each part, then of their sum."""
        parts = [statistics.median(self.times[part]) for part in PARTS]
        return [*parts, statistics.median(map(sum, zip(*self.times.values(), strict=True)))]


def detect(path: Path, backend: OnnxBackend, watch: Stopwatch) -> None:
    metadata = backend.metadata
    with watch.measure("read"):
        picture = read_image(path, at_least=metadata.input_size)
        letterbox = Letterbox(picture.size, metadata.input_size)
        images = letterbox.apply(picture.pixels, metadata.padding_colour)[None]
    with watch.measure("network"):
        levels = backend.run(images)
    with watch.measure("boxes"):
        letterbox.to_image(decode_picture(levels, 0, metadata, SCORE_THRESHOLD, IOU_THRESHOLD).boxes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    wish = parser.parse_args()
    backends = [OnnxBackend(model, wish.threads) for model in wish.models]
    for backend in backends:
        detect(wish.picture, backend, Stopwatch())  # the first run prepares buffers
    watches = [Stopwatch() for _ in backends]
    for _ in range(wish.rounds):
        for backend, watch in zip(backends, watches, strict=True):
            detect(wish.picture, backend, watch)
    print(f"{wish.picture.name}, batch 1, {wish.threads} thread(s), medians of {wish.rounds} rounds in ms")
    print(f"{'model':24} {'MB':>6} {'input':>9}" + "".join(f"{part:>9}" for part in (*PARTS, "all", "ratio")))
    first = watches[0].medians()[-1]
    for model, backend, watch in zip(wish.models, backends, watches, strict=True):
        medians = watch.medians()
        size = "x".join(map(str, backend.metadata.input_size))
        cells = "".join(f"{value:9.2f}" for value in (*medians, medians[-1] / first))
        print(f"{model.name:24} {model.stat().st_size / 1e6:6.1f} {size:>9}{cells}")


if __name__ == "__main__":
    main()
