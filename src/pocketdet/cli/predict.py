# ruff: noqa: D417 - AsJson has its help text with it
"""Find objects in pictures."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pocketdet.cli.app import BAD_INPUT, GOOD, AsJson, app, examples, print_json
from pocketdet.errors import ImageError, SettingsError

if TYPE_CHECKING:
    from pocketdet.core.detections import Detections


@app.command(
    help_epilogue=examples(
        "pocketdet predict photo.jpg",
        'pocketdet predict photos/ "more/*.png" --output drawings',
        "pocketdet predict photo.jpg --model runs/train --json",
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
    output: Path | None = None,
    threads: int | None = None,
    as_json: AsJson = False,
) -> int:
    """Find objects in pictures and print them, best first.

    Args:
        source: Pictures, folders of pictures, or patterns such as "photos/*.jpg".
        model: Name of a bundled detector, an .onnx file, a .safetensors checkpoint or the folder of a training run.
        score_threshold: Show only detections with a score above this, 0 to 1.
        iou_threshold: Boxes of one class that overlap more than this are one object, 0 to 1.
        nms: Measure that overlap by IoU, or by DIoU, which keeps more of the boxes whose centres are apart.
        output: Write the pictures with their boxes drawn in into this folder.
        threads: Threads of the network; by default as many as the machine has cores.
    """
    from pocketdet.loading import load

    predictor = load(model, threads, nms)
    failures: list[dict[str, str]] = []
    pictures = list(_expand(source, failures))
    targets = _drawing_paths(pictures, output) if output else {}
    found: list[Detections] = []
    for picture in pictures:
        with _noting_failure(picture, failures):
            detections = predictor.predict(picture, score_threshold, iou_threshold)
            if picture in targets:
                detections.save(targets[picture])
            found.append(detections)
            if not as_json:
                print_detections(detections, score_threshold)
    if as_json:
        print_json({"pictures": [detections.to_dict() for detections in found], "errors": failures})
    elif targets:
        print(f"drawings are in {output}")
    return BAD_INPUT if failures else GOOD


def _expand(sources: Sequence[str], failures: list[dict[str, str]]) -> Iterator[Path]:
    """The pictures that the sources name, each once; a source that names none is a failure."""
    from pocketdet.runtime.sources import list_pictures

    seen: set[Path] = set()
    for source in sources:
        with _noting_failure(source, failures):
            for picture in list_pictures(source):
                if picture not in seen:
                    seen.add(picture)
                    yield picture


@contextmanager
def _noting_failure(source: str | Path, failures: list[dict[str, str]]) -> Iterator[None]:
    """One bad picture is reported and does not stop the others."""
    try:
        yield
    except ImageError as error:
        print(f"error: {error}", file=sys.stderr)
        failures.append({"source": str(source), "message": str(error)})


def _drawing_paths(pictures: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """A file in the folder for each picture; pictures of one name from several folders get numbers."""
    targets: dict[Path, Path] = {}
    taken: set[Path] = set()
    for picture in pictures:
        if picture.parent.resolve() == folder.resolve():
            raise SettingsError(
                f"--output {folder} is the folder of {picture}, which would be overwritten; choose another"
            )
        target, number = folder / picture.name, 2
        while target in taken:
            target, number = folder / f"{picture.stem}-{number}{picture.suffix}", number + 1
        taken.add(target)
        targets[picture] = target
    return targets


def print_detections(detections: "Detections", score_threshold: float) -> None:
    """A table of one picture, or a line if there is nothing on it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    height, width = detections.image_size
    title = f"{detections.source} ({width} x {height})"
    if not len(detections):
        console.print(Text(f"{title}: nothing with a score above {score_threshold:.0%}"), soft_wrap=True)
        return
    console.print(Text(title, style="bold"), soft_wrap=True)
    table = Table("class", "score", "left", "top", "right", "bottom")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, score, box in zip(detections.class_names, detections.scores, detections.boxes, strict=True):
        table.add_row(Text(name), f"{score:.0%}", *(f"{value:.0f}" for value in box))
    console.print(table)
