"""Find objects in pictures."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pocketdet.cli.app import BAD_INPUT, GOOD, AsJson, app, examples
from pocketdet.errors import ImageError, SettingsError

if TYPE_CHECKING:
    from pocketdet.core.detections import Detections


@app.command(
    help_epilogue=examples(
        "pocketdet predict photo.jpg",
        'pocketdet predict photos/ "more/*.png" --output drawings',
        "pocketdet predict photo.jpg --model runs/train --json",
        "pocketdet predict field-from-above.jpg --tiles 640",
        "pocketdet predict photos --ray local --output found",
        "pocketdet predict video.mp4 --output drawings",
        "pocketdet predict rtsp://camera.local/stream --json",
    )
)
def predict(
    source: list[str],
    /,
    *,
    model: str = "animals",
    score_threshold: float = 0.3,
    iou_threshold: float = 0.5,
    nms: Literal["iou", "diou"] = "iou",
    tiles: int | None = None,
    output: Path | None = None,
    threads: int | None = None,
    ray: str | None = None,
    as_json: AsJson = False,
) -> int:
    """Find objects in pictures and print them, best first; or in the frames of videos, cameras and streams.

    Of a video --json prints an object a frame, a line each, and Ctrl-C ends it with a whole drawn file.

    Pictures are printed in order, as they are done. One that cannot be read is named, and the others go on; the exit
    code is 2 then.

    Args:
        source: Pictures, folders of pictures, or patterns such as "photos/*.jpg"; or videos, the number of a camera, or
            the URL of an RTSP or HTTP stream.
        model: Name of a bundled detector, an exported file, a .safetensors checkpoint or the folder of a training run.
        score_threshold: Show only detections with a score above this, 0 to 1.
        iou_threshold: Boxes of one class that overlap more than this are one object, 0 to 1.
        nms: Measure that overlap by IoU, or by DIoU, which keeps more of the boxes whose centres are apart.
        tiles: Look at large pictures also in overlapping square tiles of this side, in pixels: for small objects.
        output: Write the pictures or videos with their boxes drawn in into this folder.
        threads: Threads of the network, or pictures at once; by default as many as the machine has cores.
        ray: Work on a Ray cluster: its address, or "local". The source is one folder, pattern or list of paths
            (.json, .jsonl, .parquet); --output is a folder for Parquet files, or a .json file for COCO's format.
    """
    from pocketdet.loading import load
    from pocketdet.runtime.sources import is_video

    if ray is not None:
        from pocketdet.cli.many import predict_many

        thresholds = (score_threshold, iou_threshold)
        return predict_many(source, output, ray, model=model, thresholds=thresholds, as_json=as_json)
    videos = [is_video(name) for name in source]
    if any(videos) and not all(videos):
        raise SettingsError("pictures and videos are given together; give them in two calls")
    if any(videos) and tiles is not None:
        raise SettingsError(f"--tiles {tiles} is for pictures, not for videos; leave it out")
    predictor = load(model, threads, nms)
    if all(videos):
        from pocketdet.cli.video import Thresholds, predict_videos

        return predict_videos(source, predictor, Thresholds(score_threshold, iou_threshold), output, as_json)
    failures: list[dict[str, str]] = []

    def note(picture: object, error: ImageError) -> None:
        print(f"error: {error}", file=sys.stderr)
        failures.append({"source": str(picture), "message": str(error)})

    targets = None if output is None else _Targets(output)
    pictures = _once(source, note)
    tables = nullcontext(partial(print_detections, score_threshold=score_threshold))
    with _json_document(failures) if as_json else tables as show:
        for detections in predictor.iter_predict(pictures, score_threshold, iou_threshold, tiles=tiles, on_error=note):
            try:
                if targets is not None:
                    detections.save(targets.choose(Path(detections.source)))
            except ImageError as error:
                note(detections.source, error)
            else:
                show(detections)
    if output is not None and not as_json:
        print(f"drawings are in {output}")
    return BAD_INPUT if failures else GOOD


def _once(sources: Sequence[str], note: Callable[[object, ImageError], None]) -> Iterator[Path]:
    """The pictures that the sources name, each once; a source that names none is noted."""
    from pocketdet.runtime.sources import iter_pictures

    seen: set[str] = set()
    for source in sources:
        try:
            for picture in iter_pictures(source):
                if str(picture) not in seen:
                    yield picture
                if len(sources) > 1:  # a single source names nothing twice
                    seen.add(str(picture))
        except ImageError as error:
            note(source, error)


class _Targets:
    """Names a file in a folder for each picture; pictures of one name from several folders get numbers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: set[str] = set()

    def choose(self, picture: Path) -> Path:
        """The file for the next picture.

        Raises:
            SettingsError: The picture itself would be overwritten.
        """
        if picture.parent.resolve() == self._folder.resolve():
            raise SettingsError(
                f"--output {self._folder} is the folder of {picture}, which would be overwritten; choose another"
            )
        name, number = picture.name, 2
        while name in self._taken:
            name, number = f"{picture.stem}-{number}{picture.suffix}", number + 1
        self._taken.add(name)
        return self._folder / name


@contextmanager
def _json_document(failures: list[dict[str, str]]) -> "Iterator[Callable[[Detections], None]]":
    """Print one document, a picture a line, as the pictures come: nothing is kept but the failures.

    After Ctrl-C the document is complete, too.
    """
    before = '{"pictures": [\n'

    def add(detections: "Detections") -> None:
        nonlocal before
        print(before + detections.to_json(), end="", flush=True)
        before = ",\n"

    def close() -> None:
        start = before if before.startswith("{") else "\n"
        print(f'{start}], "errors": {json.dumps(failures)}}}')

    try:
        yield add
    except KeyboardInterrupt:
        close()
        raise
    close()


def print_detections(detections: "Detections", score_threshold: float) -> None:
    """A table of one picture, or a line if there is nothing on it."""
    height, width = detections.image_size
    title = f"{detections.source} ({width} x {height})"
    if not len(detections):
        print(f"{title}: nothing with a score above {score_threshold:.0%}")
        return
    rows: list[tuple[str, ...]] = [("class", "score", "left", "top", "right", "bottom")]
    for name, score, box in zip(detections.class_names, detections.scores, detections.boxes, strict=True):
        rows.append((name, f"{score:.0%}", *(f"{value:.0f}" for value in box)))
    name_width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    print(title)
    for name, *cells in rows:
        print(f"  {name:{name_width}}" + "".join(f"  {cell:>{n}}" for cell, n in zip(cells, widths, strict=True)))
