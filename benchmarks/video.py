"""A video file through a detector, drawn and written: frames a second, where the time goes, and whether memory grows.

python benchmarks/video.py [VIDEO] [--model animals-small] [--frames 300] [--threads 1] [--rounds 3]
python benchmarks/video.py [VIDEO] --leak [--frames 10000]

Without VIDEO one of 1280 x 720 is made from a bundled photo (for --leak of 320 x 180): a camera that pans over it.

Rounds of the overlapped run (three threads: decode, network, draw and encode) alternate with rounds of the same steps
one after the other, in which the time of each step is taken: CPU time of all threads, so that other work on the machine
counts little. A short video is played again and again.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from av import VideoFrame
from PIL import Image

from pocketdet.core.letterbox import Letterbox
from pocketdet.core.yuv import draw_boxes
from pocketdet.loading import ASSETS, load
from pocketdet.runtime.drawn_video import DrawnVideo, paint_detections
from pocketdet.runtime.predictor import IOU_THRESHOLD, SCORE_THRESHOLD, Predictor
from pocketdet.runtime.video import Frame, VideoFile, VideoWriter
from pocketdet.runtime.video_detection import detect_frames

STEPS = ("decode", "shrink", "network, boxes", "draw", "encode")
GROWTH = 0.5  # MiB in 1000 frames, of which the index of an MP4 takes 0.07; one lost 720p frame would be 1.3


def make_video(path: Path, size: tuple[int, int]) -> Path:
    """Two seconds, of (height, width), with a camera's noise."""
    with Image.open(ASSETS / "astronaut.jpg") as photo:
        wide = photo.convert("RGB").resize((size[1] * 5 // 4, size[1] * 5 // 4), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 4, (*size, 3))
    writer = VideoWriter(path)
    for n in range(60):
        left, top = n * size[1] // 4 // 60, size[1] // 8
        window = np.asarray(wide.crop((left, top, left + size[1], top + size[0])))
        pixels = np.clip(window + np.roll(noise, 37 * n), 0, 255).astype(np.uint8)
        writer.write(VideoFrame.from_ndarray(pixels, format="rgb24"), n / 30)
    writer.close()
    return path


class Looped:
    """The first frames of a file, which begins again when it ends; its times go on."""

    is_live, damaged = False, 0

    def __init__(self, path: Path, frames: int) -> None:
        self.path, self.expected_frames = path, frames

    def __iter__(self) -> Iterator[Frame]:
        count, start = 0, 0.0
        while count < self.expected_frames:
            file, last = VideoFile(self.path), 0.0
            for frame in file:
                last = frame.seconds
                yield Frame(count, start + last, frame.picture)
                count += 1
                if count == self.expected_frames:
                    break
            file.close()
            start += last + 1 / 30


def run_overlapped(predictor: Predictor, video: Looped, target: Path) -> float:
    start = time.perf_counter()
    with DrawnVideo(target, paint_detections) as drawn:
        for seen in detect_frames(predictor, video):
            drawn.put(seen)
    return len_per_second(video, start)


def run_in_turn(predictor: Predictor, video: Looped, target: Path, times: dict[str, float]) -> float:
    start = time.perf_counter()
    writer, frames = VideoWriter(target), iter(video)
    while True:
        with measured(times, "decode"):
            frame = next(frames, None)
        if frame is None:
            break
        with measured(times, "shrink"):
            pixels = frame.pixels(Letterbox(frame.size, predictor.metadata.input_size).resized)
        with measured(times, "network, boxes"):
            found = predictor.predict_pixels(pixels, frame.size, SCORE_THRESHOLD, IOU_THRESHOLD)
        with measured(times, "draw"):
            picture, planes = frame.to_drawable()
            draw_boxes(planes, found)
        with measured(times, "encode"):
            writer.write(picture, frame.seconds)
    with measured(times, "encode"):
        writer.close()
    return len_per_second(video, start)


def len_per_second(video: Looped, start: float) -> float:
    return video.expected_frames / (time.perf_counter() - start)


@contextmanager
def measured(times: dict[str, float], step: str) -> Iterator[None]:
    start = time.process_time()
    yield
    times[step] += time.process_time() - start


def resident_mebibytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def watch_memory(predictor: Predictor, video: Looped, target: Path) -> None:
    rows = []
    with DrawnVideo(target, paint_detections) as drawn:
        for seen in detect_frames(predictor, video):
            drawn.put(seen)
            if seen.frame.index % (video.expected_frames // 20) == 0:
                rows.append((seen.frame.index, resident_mebibytes()))
                print(f"frame {rows[-1][0]:6}: {rows[-1][1]:7.1f} MiB resident", flush=True)
    half = rows[len(rows) // 2 :]
    slope = (half[-1][1] - half[0][1]) / (half[-1][0] - half[0][0]) * 1000
    print(f"{slope:+.2f} MiB in 1000 frames over the second half: {'grows' if slope > GROWTH else 'does not grow'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, nargs="?")
    parser.add_argument("--model", default="animals-small")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--leak", action="store_true")
    wish = parser.parse_args()
    predictor = load(wish.model, wish.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = wish.video or make_video(Path(folder) / "pan.mp4", (180, 320) if wish.leak else (720, 1280))
        video = Looped(path, wish.frames or (10_000 if wish.leak else 300))
        target = Path(folder) / "drawn.mp4"
        if wish.leak:
            watch_memory(predictor, video, target)
            return
        times, overlapped, in_turn = dict.fromkeys(STEPS, 0.0), [], []
        for _ in range(wish.rounds):
            overlapped.append(run_overlapped(predictor, video, target))
            in_turn.append(run_in_turn(predictor, video, target, times))
        height, width = next(iter(video)).size
    rates = [statistics.median(rates) for rates in (overlapped, in_turn)]
    print(f"{path.name}, {width} x {height}, {wish.model}, {wish.threads} thread(s) of the network, "
          f"{os.cpu_count()} cores, medians of {wish.rounds} rounds of {video.expected_frames} frames")  # fmt: skip
    print(f"overlapped {rates[0]:.1f} frames/s, in turn {rates[1]:.1f}, ratio {rates[0] / rates[1]:.2f}")
    per_frame = {step: 1000 * seconds / wish.rounds / video.expected_frames for step, seconds in times.items()}
    total = sum(per_frame.values())
    for step, milliseconds in per_frame.items():
        print(f"{step:16}{milliseconds:7.2f} ms CPU a frame {milliseconds / total:7.0%}")
    print(f"{'together':16}{total:7.2f} ms: at most {2000 / total:.1f} frames/s on two cores")


if __name__ == "__main__":
    main()
