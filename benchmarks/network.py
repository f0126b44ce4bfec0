"""The network alone: our files, each on its own runtime, beside an OpenVINO model of somebody else.

    pocketdet export animals --format openvino --int8 --data voc12-animals --output animals8.xml
    python benchmarks/network.py yolov8n_int8_openvino_model/yolov8n.xml animals8.xml [FILE ...] [--threads 1 2]

They take turns, each in a process of its own, ten runs of which the first two do not count. YOLOv8n is what ultralytics
writes, with random weights:

    YOLO("yolov8n.yaml").export(format="openvino", int8=True, imgsz=416, data="coco128.yaml")

It takes floats and turns its outputs into boxes; ours take bytes and give logits, whose decoding ``predict.py`` has.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from pocketdet.runtime.backends import open_backend

RUNS, UNCOUNTED = 10, 2


def load_ours(path: Path, threads: int) -> Callable[[], object]:
    backend = open_backend(path, threads)
    picture = np.random.default_rng(0).integers(0, 256, (1, *backend.metadata.input_size, 3), np.uint8)
    return lambda: backend.run(picture)


def load_theirs(path: Path, threads: int) -> Callable[[], object]:
    """Told to OpenVINO as our files are: in float32, or in the 8-bit integers that the file asks for."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()
    picture = np.random.default_rng(0).random(tuple(request.model_inputs[0].shape), np.float32)
    return lambda: request.infer([picture])


def measure(build: Callable[[Path, int], Callable[[], object]], path: Path, threads: int, asked: Connection) -> None:
    """Run whenever it is asked, and send the milliseconds of each run."""
    run = build(path, threads)
    while asked.recv():
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - start))
        asked.send(times[UNCOUNTED:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("theirs", type=Path, help="an .xml file with a fixed size")
    parser.add_argument("ours", type=Path, nargs="+")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    wish = parser.parse_args()
    print("| file | threads | ms | to theirs |\n|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for threads in wish.threads:
        asking: dict[Path, Connection] = {}
        for path in (wish.theirs, *wish.ours):
            asking[path], asked = context.Pipe()
            build = load_theirs if path == wish.theirs else load_ours
            context.Process(target=measure, args=(build, path, threads, asked), daemon=True).start()
        times: dict[Path, list[float]] = {path: [] for path in asking}
        for _ in range(wish.rounds):
            for path, ask in asking.items():
                ask.send(True)
                times[path] += ask.recv()
        medians = {path: statistics.median(its_times) for path, its_times in times.items()}
        for path, median in medians.items():
            asking[path].send(False)
            print(f"| `{path.name}` | {threads} | {median:.2f} | {median / medians[wish.theirs]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
