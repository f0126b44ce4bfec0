"""Find what is wrong with a data set."""

import sys
from pathlib import Path

from pocketdet.cli.app import AsJson, app, examples, print_result, progress


@app.command(
    help_epilogue=examples(
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
    with progress("reading pictures") as report:
        checked = check_dataset(data, size, splits, classes, report)
    print_result(checked.report, as_json)
    if fix is not None:
        write_dataset(fix, format, checked.clean, checked.class_names)
        kept = sum(map(len, checked.clean.values()))
        print(f"a clean copy with {kept} pictures is in {fix}", file=sys.stderr)
    return checked.report.exit_code
