"""Follow objects through videos."""

import json
from collections import defaultdict
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pocketdet.cli.app import AsJson, app, examples

if TYPE_CHECKING:
    from pocketdet.runtime.tracking import Tracks
    from pocketdet.runtime.video_detection import Seen


@app.command(
    help_epilogue=examples(
        "pocketdet track street.mp4 --output tracks",
        "pocketdet track 0 --line 0,360,1280,360",
        "pocketdet track rtsp://camera.local/yard --zone 100,100,600,100,600,400,100,400 --json",
    )
)
def track(
    source: str,
    /,
    *,
    model: str = "animals",
    line: list[str] | None = None,
    zone: list[str] | None = None,
    score_threshold: float = 0.3,
    iou_threshold: float = 0.5,
    output: Path | None = None,
    threads: int | None = None,
    as_json: AsJson = False,
) -> None:
    """Give the objects of a video, camera or stream identities, follow them, and count them by lines and zones.

    With --json, an object a frame, a line each, and the counts in the last line.

    Args:
        source: A video, the number of a camera, or the URL of an RTSP or HTTP stream.
        model: Name of a bundled detector, an exported file, a .safetensors checkpoint or the folder of a training run.
        line: Count what crosses a line, by direction: x1,y1,x2,y2 in pixels. May be given several times.
        zone: Count what enters a polygon: x1,y1,x2,y2,x3,y3 and so on in pixels. May be given several times.
        score_threshold: Only detections with a score above this, 0 to 1.
        iou_threshold: Boxes of one class that overlap more than this are one object, 0 to 1.
        output: Write into this folder the video with identities and trails, and NAME.txt in MOTChallenge's format.
        threads: Threads of the network; by default as many as the machine has cores.
    """
    from pocketdet.cli.video import Tally, Thresholds, opened, reported, video_paths, watch
    from pocketdet.loading import load
    from pocketdet.runtime.drawn_video import DrawnVideo
    from pocketdet.runtime.track_drawing import paint_tracks

    (target,) = video_paths([source], output, "mp4")
    book, tally = _Book(line or [], zone or []), Tally()
    predictor = load(model, threads)
    with ExitStack() as stack:
        stack.callback(book.finish, as_json)
        stack.enter_context(reported(tally, as_json))
        video = stack.enter_context(opened(source))
        book.start(video.rate)
        drawn = stack.enter_context(DrawnVideo(target, paint_tracks)) if target else None
        if target:
            target.parent.mkdir(parents=True, exist_ok=True)
            book.mot = stack.enter_context(target.with_suffix(".txt").open("w", encoding="utf-8"))
        thresholds = Thresholds(score_threshold, iou_threshold)
        for seen in stack.enter_context(closing(watch(predictor, video, thresholds, tally, source))):
            tracks = book.take(seen)
            if drawn:
                drawn.put(book.to_draw(seen.frame, tracks))
            if as_json:
                where = {"frame": seen.frame.index, "seconds": round(seen.frame.seconds, 4)}
                print(json.dumps(where | tracks.to_dict()), flush=True)
    if target and not as_json:
        print(f"the drawn video is {target}, without sound, the tracks are in {target.with_suffix('.txt')}")


class _Book:
    """What is kept over the frames.

    Args:
        lines: As they were given.
        zones: As they were given.
    """

    def __init__(self, lines: list[str], zones: list[str]) -> None:
        from pocketdet.runtime.counting import LineCounter, ZoneCounter, parse_points

        self.lines: list[LineCounter] = []
        for text in lines:
            start, end = parse_points(text, "--line", 2, 2)
            self.lines.append(LineCounter(start, end))
        self.zones: list[ZoneCounter] = [ZoneCounter(parse_points(text, "--zone", 3)) for text in zones]
        self.mot: TextIO | None = None
        self._identities: defaultdict[str, int] = defaultdict(int)
        self._highest = 0
        self._frames = 0

    def start(self, rate: float) -> None:
        from pocketdet.runtime.tracking import Tracker, Trails

        self._tracker, self._trails = Tracker(rate), Trails(rate)

    def take(self, seen: "Seen") -> "Tracks":
        from pocketdet.runtime.tracking import mot_lines

        tracks = self._tracker.update(seen.detections)
        self._frames += 1
        for line in self.lines:
            line.update(tracks)
        for zone in self.zones:
            zone.update(tracks)
        news = [(n, name) for n, name in zip(tracks.ids.tolist(), tracks.detections.class_names, strict=True)]
        for identity, name in news:
            if identity > self._highest:
                self._identities[name] += 1
        self._highest = max([self._highest, *tracks.ids.tolist()])
        if self.mot:
            self.mot.write(mot_lines(tracks, seen.frame.index))
        return tracks

    def to_draw(self, frame: Any, tracks: "Tracks") -> Any:
        from pocketdet.runtime.track_drawing import Tracked, captions_of

        return Tracked(frame, tracks, self._trails.update(tracks), captions_of(self.lines, self.zones))

    def finish(self, as_json: bool) -> None:
        """Print the counts, also when Ctrl-C ended the video."""
        if not self._frames:
            return
        counts = {
            "identities": dict(self._identities),
            "lines": [counter.to_dict() for counter in self.lines],
            "zones": [counter.to_dict() for counter in self.zones],
        }
        if as_json:
            print(json.dumps({"counts": counts}))
            return
        print(f"  identities: {_listed(self._identities)}")
        for crossed in self.lines:
            print(f"  line {_points(crossed.points)}: to the left {_listed(crossed.to_left)}; "
                  f"to the right {_listed(crossed.to_right)}")  # fmt: skip
        for area in self.zones:
            print(f"  zone {_points(area.corners)}: entered {_listed(area.entered)}; now inside {_listed(area.inside)}")


def _listed(counts: Any) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _points(points: Any) -> str:
    return " ".join(f"({x:g}, {y:g})" for x, y in points)
