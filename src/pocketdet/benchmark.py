"""Several models side by side: how fast, how good, how large."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pocketdet.core.images import read_image
from pocketdet.core.sidecar import model_files
from pocketdet.datasets.records import Dataset
from pocketdet.errors import ModelFileError, SettingsError
from pocketdet.evaluation import evaluate
from pocketdet.loading import ASSETS, bundled_models, load
from pocketdet.runtime.backends import find_runtime
from pocketdet.runtime.predictor import IOU_THRESHOLD, SCORE_THRESHOLD, Predictor, Source

WARM_UP = 3  # runs that are not counted
MARKERS = "os^Dvp"  # of the picture, one a runtime
PICTURE = ASSETS / "chelsea.jpg"
# In a process of its own: what one model alone takes.
_PROBE = """
import json, resource, sys, time
import pocketdet
from pocketdet.core.images import read_image
start = time.perf_counter()
detector = pocketdet.load(sys.argv[1], int(sys.argv[2]))
load_ms = 1000 * (time.perf_counter() - start)
detector.predict(sys.argv[3])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
if sys.platform == "linux":  # there ru_maxrss is at least that of the process that started this one
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 2**10
print(json.dumps({"load_ms": load_ms, "peak_mib": peak}))
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One model on one number of threads.

    Args:
        model: As it was named.
        backbone: Of its metadata.
        precision: Of its weights, as its export wrote it down; empty where that is not known.
        threads: Of the network.
        median_ms: From pixels to boxes: letterbox, network, decoding.
        p90_ms: Nine of ten runs took at most this.
        load_ms: Until the detector is ready, the import of its runtime included.
        peak_mib: Largest resident memory of a process that loads it and looks at one picture.
        num_bytes: Of all files of the model.
        ap: COCO's AP on the data set; ``None`` without one.
        ap50: The same at IoU 0.5.
    """

    model: str
    backbone: str
    precision: str
    threads: int
    median_ms: float
    p90_ms: float
    load_ms: float
    peak_mib: float
    num_bytes: int
    ap: float | None = None
    ap50: float | None = None


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """All rows, of one run on one machine."""

    rows: tuple[Row, ...]
    rounds: int

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {"rounds": self.rounds, "rows": [dataclasses.asdict(row) for row in self.rows]}

    def to_text(self) -> str:
        """A table; the times of the first row are 1.00 in the column of ratios."""
        names = [*("model", "precision", "threads", "median ms", "p90 ms", "ratio", "load ms", "peak MiB", "MB")]
        has_ap = any(row.ap is not None for row in self.rows)
        lines = [names + (["AP50", "AP"] if has_ap else [])]
        for row in self.rows:
            cells = [row.model, row.precision or "-", f"{row.threads}", f"{row.median_ms:.1f}", f"{row.p90_ms:.1f}"]
            cells += [f"{row.median_ms / self.rows[0].median_ms:.2f}", f"{row.load_ms:.0f}", f"{row.peak_mib:.0f}"]
            cells += [f"{row.num_bytes / 1e6:.1f}"]
            if has_ap:
                cells += ["-" if value is None else f"{100 * value:.1f}" for value in (row.ap50, row.ap)]
            lines.append(cells)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if n < 2 else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in lines
        )


def run_benchmark(
    models: Sequence[str],
    threads: Sequence[int] = (1,),
    rounds: int = 30,
    dataset: Callable[[tuple[str, ...]], Dataset] | None = None,
    picture: Source = PICTURE,
    move_bar: Callable[[int, int], None] = lambda done, total: None,
) -> Benchmark:
    """Measure models against each other.

    The runs of all models take turns, so that what else the machine does meets all alike.

    Args:
        models: Names of bundled detectors, exported files, checkpoints or folders of runs.
        threads: Each model is measured on each of these.
        rounds: Timed runs of each.
        dataset: Gives the labelled pictures for the class names of a model.
        picture: That the timed runs look at.
        move_bar: Called with the rounds that are done and all.

    Raises:
        SettingsError: No model, no round or no thread.
        ModelFileError: A model cannot be opened.
        MissingExtraError: The runtime of one is not installed.
    """
    if not models or rounds < 1 or not threads or min(threads) < 1:
        raise SettingsError("a benchmark needs at least one model, one round and one thread")
    candidates = [(model, count, load(model, count)) for model in models for count in threads]
    pixels = read_image(picture).pixels
    times: list[list[float]] = [[] for _ in candidates]
    for turn in range(WARM_UP + rounds):
        move_bar(turn, WARM_UP + rounds)
        for place in np.roll(np.arange(len(candidates)), turn):  # nobody always comes after the same
            start = time.perf_counter()
            candidates[place][2].predict_pixels(pixels, pixels.shape[:2], SCORE_THRESHOLD, IOU_THRESHOLD)
            if turn >= WARM_UP:
                times[place].append(1000 * (time.perf_counter() - start))
    accuracy = {} if dataset is None else {m: _accuracy(p, dataset) for m, _, p in reversed(candidates)}
    return Benchmark(
        tuple(
            Row(
                model,
                predictor.metadata.backbone,
                predictor.metadata.precision,
                count,
                float(np.median(taken)),
                float(np.percentile(taken, 90)),
                **_probe(model, count),
                num_bytes=sum(file.stat().st_size for file in _files(model)),
                ap=accuracy.get(model, (None, None))[0],
                ap50=accuracy.get(model, (None, None))[1],
            )
            for (model, count, predictor), taken in zip(candidates, times, strict=True)
        ),
        rounds,
    )


def plot(benchmark: Benchmark, path: Path) -> None:
    """AP over latency, a point a row; the suffix of ``path`` says which kind of picture.

    Raises:
        SettingsError: The rows have no AP, or the picture cannot be written.
        MissingExtraError: matplotlib is missing.
    """
    from pocketdet.loading import require_packages

    if any(row.ap is None for row in benchmark.rows):
        raise SettingsError("a picture of AP over latency needs labelled pictures: name a data set by --data")
    require_packages("a picture of AP over latency", ["matplotlib"])
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    rows = sorted(benchmark.rows, key=lambda row: row.median_ms)
    best = [row for n, row in enumerate(rows) if all((row.ap or 0) > (faster.ap or 0) for faster in rows[:n])]
    times, heights = [row.median_ms for row in best], [100 * (row.ap or 0) for row in best]
    axes.plot(times, heights, color="0.75", zorder=0, drawstyle="steps-post", label="best for its time")
    kinds = [find_runtime(row.model) or Path(row.model).suffix for row in rows]
    colours = colormaps["tab10" if len(rows) <= 10 else "tab20"]
    for n, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        name = ", ".join(filter(None, (Path(row.model).name, row.precision)))
        label = f"{name}, {row.threads} thread{'s' * (row.threads > 1)}"
        marker = MARKERS[list(dict.fromkeys(kinds)).index(kind) % len(MARKERS)]
        colour = colours(n % colours.N)
        axes.plot(row.median_ms, 100 * (row.ap or 0), marker, color=colour, markersize=8, label=label)
    axes.set(xlabel="milliseconds a picture, median", ylabel="AP, %")
    axes.set_xlim(left=0)
    axes.margins(0.1)
    axes.grid(alpha=0.3)
    # Not beside the points: formats of one network have one AP, and their names would lie upon each other.
    figure.legend(loc="outside right upper", frameon=False, title="fastest first")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: the picture cannot be written ({error}); choose another --plot") from error


def _accuracy(predictor: Predictor, dataset: Callable[[tuple[str, ...]], Dataset]) -> tuple[float, float]:
    measured = evaluate(predictor.predict_record, dataset(predictor.class_names))
    return measured.ap, measured.ap50


def _probe(model: str, threads: int) -> dict[str, float]:
    command = [sys.executable, "-c", _PROBE, model, str(threads), str(PICTURE)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise ModelFileError(f"{model}: a process of its own cannot load it: {done.stderr.strip()[-300:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _files(model: str) -> list[Path]:
    from pocketdet.loading import find_checkpoint

    bundled = bundled_models()
    if model in bundled:
        return [ASSETS / bundled[model]["file"]]
    path = Path(model)
    if path.is_dir():
        path = find_checkpoint(path)
    return model_files(path)
