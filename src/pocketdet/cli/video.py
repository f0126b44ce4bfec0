"""Detection in videos: the part of ``pocketdet predict`` that is for moving pictures."""

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pocketdet.cli.app import BAD_INPUT, GOOD, progress
from pocketdet.errors import SettingsError, VideoError

if TYPE_CHECKING:
    from pocketdet.runtime.live import LiveStream
    from pocketdet.runtime.predictor import Predictor
    from pocketdet.runtime.video import VideoFile
    from pocketdet.runtime.video_detection import Seen


class Thresholds(NamedTuple):
    """Of one call."""

    score: float
    iou: float


def predict_videos(
    sources: Sequence[str], predictor: "Predictor", thresholds: Thresholds, output: Path | None, as_json: bool
) -> int:
    """One video after the other: JSON lines or a summary of each, and drawn videos.

    Args:
        sources: Files, cameras and streams.
        predictor: The detector.
        thresholds: Of scores and overlaps.
        output: A folder for drawn videos.
        as_json: Print a JSON object a frame, a line each, instead of summaries.

    Returns:
        Exit code.
    """
    from pocketdet.runtime.drawn_video import DrawnVideo, paint_detections

    failed = False
    for source, target in zip(sources, video_paths(sources, output, "mp4"), strict=True):
        tally = Tally()
        try:
            with reported(tally, as_json), ExitStack() as stack:
                video = stack.enter_context(opened(source))
                drawn = stack.enter_context(DrawnVideo(target, paint_detections)) if target else None
                for seen in stack.enter_context(closing(watch(predictor, video, thresholds, tally, source))):
                    if drawn:
                        drawn.put(seen)
                    if as_json:
                        print(json.dumps(seen_to_dict(seen)), flush=True)
        except VideoError as error:
            failed = True
            print(f"error: {error}", file=sys.stderr)
        if target and not as_json and target.exists():
            print(f"the drawn video is {target}, without sound")
    return BAD_INPUT if failed else GOOD


class Tally:
    """What is said about a video in the end."""

    def __init__(self) -> None:
        self.name = ""
        self.size = (0, 0)
        self.frames, self.left_out, self.damaged, self.seconds = 0, 0, 0, 0.0
        self.classes: Counter[str] = Counter()
        self.start = time.monotonic()

    def add(self, seen: "Seen") -> None:
        """Count a frame."""
        self.frames += 1
        self.left_out = seen.frame.index + 1 - self.frames
        self.size, self.seconds = seen.frame.size, seen.frame.seconds
        self.classes.update(set(seen.detections.class_names))

    def to_text(self) -> str:
        """A line or two."""
        rate = self.frames / max(1e-9, time.monotonic() - self.start)
        height, width = self.size
        text = f"{self.name} ({width} x {height}): {self.frames} frames, {self.seconds:.1f} s, {rate:.1f} frames/s"
        if self.left_out:
            text += f", {self.left_out} left out to keep up"
        if self.damaged:
            text += f", {self.damaged} damaged ones skipped"
        found = ", ".join(f"{name} in {count} frames" for name, count in self.classes.most_common())
        return f"{text}\n  {found or 'nothing found'}"


def seen_to_dict(seen: "Seen") -> dict[str, object]:
    """Plain values of a frame: its number and time, then as of a picture."""
    found = seen.detections.to_dict()
    return {
        "source": found.pop("source"),
        "frame": seen.frame.index,
        "seconds": round(seen.frame.seconds, 4),
        **found,
    }


@contextmanager
def opened(source: str) -> "Iterator[VideoFile | LiveStream]":
    """The frames of a source; SIGTERM ends it as Ctrl-C does, so that files are finished."""
    from pocketdet.runtime.video_detection import open_video

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with closing(open_video(source, note=lambda text: print(text, file=sys.stderr))) as video:
            yield video
    finally:
        signal.signal(signal.SIGTERM, before)


def watch(
    predictor: "Predictor",
    video: "VideoFile | LiveStream",
    thresholds: Thresholds,
    tally: Tally,
    source: str,
) -> "Generator[Seen, None, None]":
    """Detections frame by frame, under a progress bar."""
    import dataclasses

    from pocketdet.runtime.video import public_name
    from pocketdet.runtime.video_detection import detect_frames

    tally.name = public_name(source)
    total = video.expected_frames
    with progress(tally.name) as move, closing(detect_frames(predictor, video, *thresholds)) as frames:
        for seen in frames:
            tally.add(seen)
            tally.damaged = video.damaged
            move(tally.frames, total)
            yield seen._replace(detections=dataclasses.replace(seen.detections, source=tally.name))


@contextmanager
def reported(tally: Tally, as_json: bool) -> Iterator[None]:
    """The summary when a video ends, also when Ctrl-C or an error ends it."""
    try:
        yield
    finally:
        if tally.frames and not as_json:
            print(tally.to_text())


def video_paths(sources: Sequence[str], folder: Path | None, suffix: str) -> list[Path | None]:
    """A file in the folder for each source, never the source itself; equal names get numbers."""
    from pocketdet.runtime.video_detection import video_name

    if folder is None:
        return [None] * len(sources)
    taken: list[Path | None] = []
    for source in sources:
        name, number = video_name(source), 2
        target = folder / f"{name}.{suffix}"
        while target in taken:
            target, number = folder / f"{name}-{number}.{suffix}", number + 1
        if target.resolve() == Path(source).resolve():
            raise SettingsError(
                f"--output {folder} is the folder of {source}, which would be overwritten; choose another"
            )
        taken.append(target)
    return taken
