"""From a picture file to boxes: where the time goes, and beside what other toolkits take.

python benchmarks/predict.py MODEL [MODEL ...] [--picture FILE] [--rounds 20] [--threads 2] [--peers PYTHON]

MODEL is a bundled name or an exported file. Without --picture a 1920 x 1080 JPEG is made from a bundled photo. --peers
names the Python of another environment, with ultralytics and torchvision; their networks have random weights (nothing
is downloaded) and find no boxes, which spares them the work on boxes. ultralytics chooses its number of threads itself.

All take turns, so that a busy machine slows all of them; the ratios are worth more than the milliseconds. "whole" is
``predict`` on the file. "processor" is the same in processor time of all threads, which other programs do not add to.
The parts of one thread, the decoder alone ("floor"), decode, letterbox and boxes, are in processor time of that thread.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pocketdet.core.decode import decode_picture
from pocketdet.core.images import read_picture
from pocketdet.core.letterbox import Letterbox
from pocketdet.loading import ASSETS, load
from pocketdet.runtime.predictor import IOU_THRESHOLD, SCORE_THRESHOLD, Predictor

PARTS = ("floor", "decode", "letterbox", "network", "boxes")
PEERS = Path(__file__).with_name("predict_peers.py")


def make_picture(folder: Path) -> Path:
    """A 1920 x 1080 JPEG with a camera's noise, the same every time."""
    with Image.open(ASSETS / "astronaut.jpg") as photo:
        pixels = np.asarray(photo.resize((1920, 1080), Image.Resampling.BICUBIC), np.float32)
    noisy = pixels + np.random.default_rng(0).normal(0, 6, pixels.shape)
    path = folder / "astronaut-1080.jpg"
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=90)
    return path


class Stopwatch:
    """Milliseconds of every part, round by round: processor time of its thread, of the network by the clock."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {part: [] for part in PARTS}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        clock = time.perf_counter if part == "network" else time.thread_time
        start = clock()
        yield
        self.times[part].append((clock() - start) * 1000)


def detect_in_parts(path: Path, predictor: Predictor, watch: Stopwatch) -> None:
    metadata = predictor.metadata

    enough = predictor._enough
    with watch.measure("floor"), Image.open(path) as picture:  # the decoder alone: no EXIF, no checks
        picture.draft(None, enough(picture.size[::-1])[::-1])
        picture.load()
    with watch.measure("decode"):
        picture, size = read_picture(path, enough)
    with watch.measure("letterbox"):
        letterbox = Letterbox(size, metadata.input_size)
        images = letterbox.apply(picture, metadata.padding_colour)[None]
    with watch.measure("network"):
        levels = predictor._backend.run(images)
    with watch.measure("boxes"):
        letterbox.to_image(decode_picture(levels, 0, metadata, SCORE_THRESHOLD, IOU_THRESHOLD).boxes)


class Whole(NamedTuple):
    """Of one picture, in milliseconds."""

    wall: float
    processor: float  # of all threads; what other programs do meanwhile does not count


def time_whole(call: Callable[[], object]) -> Whole:
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return Whole((time.perf_counter() - wall) * 1000, (time.process_time() - processor) * 1000)


class Peers:
    """Other toolkits in a process of their own: a name goes in, two times come out.

    Args:
        python: Of their environment.
        picture: They detect in.
        threads: Of each network.
    """

    def __init__(self, python: str, picture: Path, threads: int) -> None:
        command = [python, str(PEERS), str(picture), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.names: list[str] = self._answer().split(",")

    def time_whole(self, name: str) -> Whole:
        assert self._process.stdin is not None
        print(name, file=self._process.stdin, flush=True)
        return Whole(*map(float, self._answer().split()))

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):  # toolkits print as well
                return line[2:].strip()
        raise SystemExit("the peers' process ended; see its message above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers")
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(wish, wish.picture or make_picture(Path(folder)))


def run(wish: argparse.Namespace, picture: Path) -> None:
    predictors = {name: load(name, wish.threads) for name in wish.models}
    watches = {name: Stopwatch() for name in predictors}
    peers = Peers(wish.peers, picture, wish.threads) if wish.peers else None
    wholes: dict[str, list[Whole]] = {name: [] for name in (*predictors, *(peers.names if peers else ()))}
    for number in range(wish.rounds + 1):
        if number == 1:  # the first round prepared buffers
            watches = {name: Stopwatch() for name in predictors}
            wholes = {name: [] for name in wholes}
        for name, predictor in predictors.items():
            wholes[name].append(time_whole(lambda predictor=predictor: predictor.predict(picture)))
            detect_in_parts(picture, predictor, watches[name])
        for name in peers.names if peers else ():
            wholes[name].append(peers.time_whole(name))
    if peers:
        peers.close()
    report(wish, predictors, watches, wholes)


def report(
    wish: argparse.Namespace,
    predictors: dict[str, Predictor],
    watches: dict[str, Stopwatch],
    wholes: dict[str, list[Whole]],
) -> None:
    print(f"batch 1, {wish.threads} thread(s); ms, medians (and minima) of {wish.rounds} rounds in turns")
    print(f"{'':26}{'input':>10}" + "".join(f"{part:>16}" for part in (*PARTS, "whole", "processor")))
    for name, times in wholes.items():
        size = "x".join(map(str, predictors[name].metadata.input_size)) if name in predictors else ""
        parts = [watches[name].times[part] for part in PARTS] if name in predictors else [[]] * len(PARTS)
        cells = "".join(
            f"{statistics.median(t):9.2f} ({min(t):4.1f})".rjust(16) if t else " " * 16
            for t in (*parts, *zip(*times, strict=True))
        )
        print(f"{Path(name).name:26}{size:>10}{cells}")
    for name in predictors:
        times = watches[name].times
        rest = [letterbox + boxes for letterbox, boxes in zip(times["letterbox"], times["boxes"], strict=True)]
        print(f"\n{Path(name).name}: decode / floor {ratio(times['decode'], times['floor']):.2f}")
        print(f"  neither decode nor network: {statistics.median(rest):.2f} ms (minimum {min(rest):.2f})")
        for other in wholes:
            if other != name:
                wall, processor = map(ratio, zip(*wholes[name], strict=True), zip(*wholes[other], strict=True))
                print(f"  whole / {Path(other).name}: {wall:.2f} (processor time {processor:.2f})")


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
