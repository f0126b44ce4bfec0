"""Measure a detector."""

import sys
from pathlib import Path
from typing import Literal

from pocketdet.cli.app import AsJson, app, examples, print_result, progress


@app.command(
    help_epilogue=examples(
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
        model: Name of a bundled detector, an exported file, a .safetensors checkpoint or the folder of a training run.
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
    with progress("evaluating") as move_bar:
        result = measure(predictor.predict_record, dataset, move_bar)
    print_result(result, as_json)
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
