"""Anchors of a run: YOLOv4's, or some that are made for its training boxes, with a report on what they are worth."""

import json
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from pocketdet.core.images import image_size
from pocketdet.core.letterbox import Letterbox
from pocketdet.core.metadata import Anchors
from pocketdet.datasets.anchors import RECALL_AT, comparison_lines, fit_anchors, measure_fit
from pocketdet.datasets.records import Record
from pocketdet.errors import DataError
from pocketdet.training.settings import TrainSettings

ANCHOR_FILE = "anchors.json"


def choose_anchors(records: Sequence[Record], settings: TrainSettings, usual: Anchors, console: Console) -> Anchors:
    """The anchors of a new run; own ones are compared with the usual ones on the console and in the run's folder.

    Args:
        records: The training pictures, with at least one object.
        settings: Of the run.
        usual: The network's own anchors, as a rule YOLOv4's or those of the start weights; own ones are as many.
        console: For the comparison.

    Raises:
        DataError: Too few different boxes for own anchors.
    """
    if settings.anchors != "kmeans":
        return usual
    input_size = (settings.size, settings.size)
    labelled = [record for record in records if len(record.boxes)]
    scales = [Letterbox(image_size(record.path), input_size).scale for record in labelled]
    sizes = [(r.boxes[:, 2:] - r.boxes[:, :2]) * scale for r, scale in zip(labelled, scales, strict=True)]
    boxes = np.concatenate(sizes, dtype=np.float32)
    own, default = fit_anchors(boxes, settings.seed, len(usual), len(usual[0])), measure_fit(boxes, usual)
    count = len(usual) * len(usual[0])
    if own is None or default is None:
        raise DataError(
            f"the {len(boxes)} training boxes have fewer than {count} different sizes, and k-means needs {count} "
            "for as many anchors; label more, or leave anchors at yolov4"
        )
    console.print(f"anchors on the {len(boxes)} training boxes at {settings.size} x {settings.size}, as IoU of shapes:")
    for line in comparison_lines(default, own):
        console.print(line, markup=False, soft_wrap=True)
    report = {
        "boxes": len(boxes),
        "size": settings.size,
        "recall_at": RECALL_AT,
        "yolov4": {"anchors": usual, **default._asdict()},
        "kmeans": {"anchors": own.anchors, **own.fit._asdict()},
    }
    path = settings.output / ANCHOR_FILE
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return own.anchors
