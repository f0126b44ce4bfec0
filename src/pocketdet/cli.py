# ruff: noqa: D417 - two parameters have their help text elsewhere: AsJson and TrainSettings
"""The command line. Options, defaults and help texts come from the verbs' signatures and docstrings."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from pocketdet import __version__
from pocketdet.errors import ImageError, PocketdetError, SettingsError
from pocketdet.training.settings import TrainSettings

if TYPE_CHECKING:
    from pocketdet.core.detections import Detections

GOOD, BAD_INPUT, INTERRUPTED = 0, 2, 130
DEMO_PICTURES = ("chelsea.jpg", "astronaut.jpg")
DEFAULT_SETTINGS = TrainSettings()


def _examples(*lines: str) -> str:
    """The last part of a help text."""
    return "Examples:\n\n" + "\n".join(f"    {line}" for line in lines)


AsJson = Annotated[
    bool,
    Parameter(
        name="--json",
        negative="",
        show_default=False,
        help="Print one JSON document instead of text on standard output.",
    ),
]

app = App(
    name="pocketdet",
    version=__version__,
    help="""Find objects in pictures with small detectors, and train your own.

    Try `pocketdet demo`, then `pocketdet predict photo.jpg`. `pocketdet VERB --help` explains each verb.""",
    help_format="markdown",
    # One flag takes several values: --classes cat dog. An empty list is never useful.
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    suppress_keyboard_interrupt=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: Without the program's name; by default the command line's.

    Returns:
        Exit code: 0 good, 2 bad input or wrong usage, 130 after Ctrl-C.
    """
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (PocketdetError, CycloptsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output, such as "head", has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return GOOD
    return code if isinstance(code, int) else GOOD


@app.command(
    help_epilogue=_examples(
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
                _print_detections(detections, score_threshold)
    if as_json:
        _print_json({"pictures": [detections.to_dict() for detections in found], "errors": failures})
    elif targets:
        print(f"drawings are in {output}")
    return BAD_INPUT if failures else GOOD


@app.command
def demo(*, output: Path = Path("demo.jpg"), as_json: AsJson = False) -> None:
    """Find a cat and a person in the pictures that come with pocketdet.

    Prints what the bundled detector "animals" finds and writes both pictures, with boxes, into one file.

    Args:
        output: The file with both pictures.
    """
    import numpy as np

    from pocketdet.core.drawing import draw, save_image
    from pocketdet.core.images import read_image
    from pocketdet.loading import ASSETS, load

    predictor = load("animals")
    paths = [ASSETS / name for name in DEMO_PICTURES]
    pictures = [read_image(path).pixels for path in paths]
    found = [predictor.predict(path) for path in paths]
    drawn = [draw(detections, picture) for detections, picture in zip(found, pictures, strict=True)]
    height = max(picture.shape[0] for picture in drawn)
    columns = [np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255) for p in drawn]
    save_image(np.concatenate(columns, axis=1), output)
    if as_json:
        _print_json({"pictures": [detections.to_dict() for detections in found], "drawing": str(output)})
        return
    for detections in found:
        _print_detections(detections, 0.3)
    print(f"the pictures with boxes are in {output}")


@app.command(
    help_epilogue=_examples(
        "pocketdet train my-pictures --epochs 60 --output runs/first",
        "pocketdet train my-pictures --model mobilenet_v2 --neck-width 0.5 --size 320",
        "pocketdet train my-pictures --output runs/first --resume",
    )
)
def train(
    data: Path,
    /,
    *,
    settings: Annotated[TrainSettings, Parameter(name="*")] = DEFAULT_SETTINGS,
    as_json: AsJson = False,
) -> None:
    """Train a detector on your own labelled pictures.

    Ctrl-C leaves a checkpoint; the same command with --resume goes on from it. The best detector is
    best.safetensors in the output folder.

    Args:
        data: Folder with pictures and labels in the layout of Pascal VOC, COCO or YOLO.
    """
    from pocketdet.loading import TRAINING_PACKAGES, require_packages

    require_packages("training", TRAINING_PACKAGES)
    from pocketdet.training import train as run_training
    from pocketdet.training.processes import rank

    result = run_training(data, settings)
    if rank() > 0:
        return
    if as_json:
        _print_json(result.to_dict())
    else:
        print(f"{result.best}: AP50 {result.ap50:.3f}, AP {result.ap:.3f} after {result.epochs} epochs")


@app.command(
    help_epilogue=_examples(
        "pocketdet check my-pictures",
        "pocketdet check my-pictures --size 320 --json",
        "pocketdet check my-pictures --fix clean-pictures --format coco",
    )
)
def check(
    data: Path,
    /,
    *,
    size: int = 416,
    splits: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
    fix: Path | None = None,
    format: str = "voc",
    as_json: AsJson = False,
) -> int:
    """Find what is wrong with labelled pictures, before a training does.

    Exit code: 0 nothing is wrong, 1 training copes with all that was found, 2 something stops training.

    Args:
        data: Folder with pictures and labels in the layout of Pascal VOC, COCO or YOLO.
        size: Height and width of the network's input in pixels, to which the sizes of objects refer.
        splits: Check only these parts of the data set; by default all.
        classes: Check only these classes; by default all that the labels know.
        fix: Write a copy without the pictures and labels that cannot be used into this empty folder.
        format: Of the copy: voc, coco or yolo.
    """
    from pocketdet.datasets.check import check_dataset
    from pocketdet.datasets.write import check_target, write_dataset

    if fix is not None:
        check_target(format, fix, data)
    with _progress("reading pictures") as report:
        checked = check_dataset(data, size, splits, classes, report)
    _print_result(checked.report, as_json)
    if fix is not None:
        write_dataset(fix, format, checked.clean, checked.class_names)
        kept = sum(map(len, checked.clean.values()))
        print(f"a clean copy with {kept} pictures is in {fix}", file=sys.stderr)
    return checked.report.exit_code


@app.command(
    help_epilogue=_examples(
        "pocketdet evaluate my-pictures --model runs/first --split val",
        "pocketdet evaluate my-pictures --model runs/first --split test --report report.html",
    )
)
def evaluate(
    data: Path,
    /,
    *,
    model: str = "animals",
    split: str = "val",
    classes: tuple[str, ...] = (),
    nms: Literal["iou", "diou"] = "iou",
    report: Path | None = None,
    threads: int | None = None,
    as_json: AsJson = False,
) -> None:
    """Measure how good a detector is on labelled pictures: average precision by the rules of COCO and VOC.

    Args:
        data: Folder with pictures and labels in the layout of Pascal VOC, COCO or YOLO.
        model: Name of a bundled detector, an .onnx file, a .safetensors checkpoint or the folder of a training run.
        split: Which part of the data set.
        classes: Measure only these classes; by default all that the detector knows.
        nms: Measure how much two boxes overlap by IoU, or by DIoU, which keeps more boxes whose centres are apart.
        report: Write curves, confusions and the worst mistakes into this file as one HTML page.
        threads: Threads of the network; by default as many as the machine has cores.
    """
    from pocketdet.datasets.load import load_dataset
    from pocketdet.evaluation import evaluate as measure
    from pocketdet.loading import load

    if report is not None:
        from pocketdet.reports import Report, check_report_file, write_report

        check_report_file(report)
    predictor = load(model, threads, nms)
    dataset = load_dataset(data, (split,), classes or predictor.class_names)
    for line in dataset.skipped:
        print(f"left out: {line}", file=sys.stderr)
    with _progress("evaluating") as move_bar:
        result = measure(predictor.predict_record, dataset, move_bar)
    _print_result(result, as_json)
    if report is not None:
        title = f"{Path(model).name} on {data.resolve().name} ({split})"
        settings = {
            "data": data,
            "model": model,
            "split": split,
            "classes": dataset.class_names,
            "nms": nms,
            "threads": threads,
        }
        write_report(Report(title, result, {split: dataset}, split, predictor.metadata, settings), report)
        print(f"the report is in {report}", file=sys.stderr)


@app.command(
    help_epilogue=_examples(
        "pocketdet export runs/first --output cats.onnx --data my-pictures",
        "pocketdet predict photo.jpg --model cats.onnx",
    )
)
def export(
    checkpoint: Path,
    /,
    *,
    format: str = "onnx",
    output: Path | None = None,
    data: Path | None = None,
    split: str = "val",
    size: int | None = None,
    half: bool = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained detector as a file that runs without torch.

    The file is run and compared with the checkpoint before it is called good.

    Args:
        checkpoint: A .safetensors checkpoint or the folder of a training run.
        format: Of the file: onnx.
        output: The file; by default beside the checkpoint.
        data: Folder with labelled pictures on which the average precision of both is compared, too; without it their
            boxes are compared on pocketdet's own pictures.
        split: Which part of the data set.
        size: Height and width of the input in pixels, a multiple of 32; by default the checkpoint's.
        half: Store the weights in 16 bits: half the file, the same speed.
    """
    from pocketdet.loading import find_checkpoint, require_packages

    path = find_checkpoint(checkpoint)
    require_packages("export")
    from pocketdet.export import export as run_export

    input_size = None if size is None else (size, size)
    _print_result(run_export(path, output, format=format, data=data, split=split, size=input_size, half=half), as_json)


@app.command(
    help_epilogue=_examples(
        "pocketdet explain mobilenet_v2 --neck-width 0.5 --size 320",
        "pocketdet explain runs/first --data my-pictures",
        "pocketdet explain runs/first --drop-dead smaller.safetensors",
    )
)
def explain(
    model: str,
    /,
    *,
    width: float = 1.0,
    neck_width: float = 0.5,
    size: int | None = None,
    num_classes: int = 80,
    neck_activation: Literal["relu6", "mish"] = "relu6",
    data: Path | None = None,
    split: str = "val",
    drop_dead: Path | None = None,
    as_json: AsJson = False,
) -> None:
    """Print a network's table, block by block: operators, channels, parameters, multiply-adds.

    Of a checkpoint also its dead depthwise kernels, layer by layer, why they are dead and what to do.

    Args:
        model: A backbone (mobilenet_v1, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small, or a V3 with
            _minimalistic), a .safetensors checkpoint or the folder of a training run.
        width: Multiplier of the backbone's channels; a checkpoint has its own.
        neck_width: Multiplier of the channels of neck and head; a checkpoint has its own.
        size: Height and width of the input in pixels, a multiple of 32; by default 416, or the checkpoint's.
        num_classes: How many classes the head tells apart; a checkpoint has its own.
        neck_activation: Of neck and head; a checkpoint has its own.
        data: Labelled pictures, or any folder of pictures, on which a checkpoint's kernels are watched (up to 200).
        split: Which part of labelled pictures.
        drop_dead: Write the checkpoint without channels that are the same on any picture into this .safetensors file,
            and say what that saves; its outputs are compared and stay within 0.0001.
    """
    from pocketdet.loading import find_checkpoint, require_packages

    is_file = Path(model).exists() or bool(Path(model).suffix)
    path = find_checkpoint(model) if is_file else None
    require_packages("explain")
    from pocketdet.models import explain as explain_network
    from pocketdet.models import load_detector

    if path is None:
        if data is not None or drop_dead is not None:
            raise SettingsError(f"{model} is a name without weights; --data and --drop-dead need a checkpoint")
        side = 416 if size is None else size
        explanation = explain_network(model, (side, side), width, neck_width, num_classes, neck_activation)
    else:
        from pocketdet.models.activity import find_constant, find_pictures
        from pocketdet.models.drop_dead import drop_dead as write_without_dead

        pictures = [] if data is None else find_pictures(data, split)
        detector, metadata = load_detector(path)
        constant = find_constant(detector, metadata, pictures) if pictures else None
        input_size = metadata.input_size if size is None else (size, size)
        explanation = explain_network(detector, input_size, constant=constant)
        if drop_dead is not None:
            dropped = write_without_dead(path, drop_dead, pictures)
            if as_json:
                _print_json(explanation.to_dict() | {"dropped": dropped.to_dict()})
            else:
                print(f"{explanation.to_text()}\n\n{dropped.to_text()}")
            return
    _print_result(explanation, as_json)


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


def _print_detections(detections: "Detections", score_threshold: float) -> None:
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


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; gives the function that moves it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_result(result: Any, as_json: bool) -> None:
    if as_json:
        _print_json(result.to_dict())
    else:
        print(result.to_text())


def _print_json(document: object) -> None:
    print(json.dumps(document))
