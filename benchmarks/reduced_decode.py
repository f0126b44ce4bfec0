"""Whether a JPEG decoded at a reduced scale gives the boxes and the AP of the full picture.

python benchmarks/reduced_decode.py DATA [--model animals] [--split val] [--every 1] [--enlarge 1]

Pictures below three times the network's input are decoded whole either way; --enlarge 4 makes such data four times as
large (bicubic, JPEG quality 92) before both look at it. --every 3 takes every third picture.

--inset 4 leaves the files alone and lays each picture into a corner of the input, reduced 4 times from its size: real
detail, small objects. --reduce 2 is the scale of the decoder then, whatever the predictor would choose.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from pocketdet.core.decode import box_iou
from pocketdet.core.detections import Detections
from pocketdet.core.images import read_image
from pocketdet.core.letterbox import Letterbox
from pocketdet.datasets.load import load_dataset
from pocketdet.datasets.records import Record
from pocketdet.evaluation import evaluate
from pocketdet.loading import load
from pocketdet.runtime.predictor import (
    EVALUATION_SCORE_THRESHOLD,
    IOU_THRESHOLD,
    SCORE_THRESHOLD,
    Predictor,
    Prepared,
)


def enlarge(record: Record, factor: int, path: Path) -> Record:
    with Image.open(record.path) as picture:
        size = (picture.width * factor, picture.height * factor)
        picture.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
    return dataclasses.replace(record, path=path, boxes=record.boxes * factor)


def inset(predictor: Predictor, record: Record, times: float, reduction: int) -> Detections:
    """Detect in a picture that lies reduced in the input's corner, decoded at 1 / ``reduction`` of its size."""
    metadata = predictor.metadata
    with Image.open(record.path) as file:
        width, height = file.size
        file.draft(None, (width // reduction, height // reduction))
        picture = file.convert("RGB")
    assert picture.width == -(-width // reduction)
    size = round(width / times), round(height / times)
    canvas = np.full((*metadata.input_size, 3), metadata.padding_colour, np.uint8)
    canvas[: size[1], : size[0]] = picture.resize(size, Image.Resampling.BILINEAR)
    letterbox = Letterbox(metadata.input_size, metadata.input_size)
    found = predictor.detect([Prepared(canvas, letterbox)], [(EVALUATION_SCORE_THRESHOLD, IOU_THRESHOLD)])[0]
    scale = np.array([width / size[0], height / size[1]] * 2, np.float32)
    boxes = np.minimum(found.boxes * scale, np.array([width, height] * 2, np.float32))
    return dataclasses.replace(found, boxes=boxes, image_size=(height, width))


def differences(full: Detections, reduced: Detections) -> tuple[list[float], int]:
    """The largest corner difference of every box over the usual threshold, in image pixels; and how many are alone."""
    far, alone = [], 0
    for ours, theirs in ((full, reduced), (reduced, full)):
        for n in np.flatnonzero(ours.scores > SCORE_THRESHOLD):
            same = theirs.class_ids == ours.class_ids[n]
            overlap = box_iou(ours.boxes[n][None], theirs.boxes[same])[0]
            if overlap.max(initial=0) < 0.5:
                alone += 1
            else:
                far.append(float(np.abs(theirs.boxes[same][overlap.argmax()] - ours.boxes[n]).max()))
    return far, alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="animals")
    parser.add_argument("--split", default="val")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--enlarge", type=int, default=1)
    parser.add_argument("--inset", type=float, default=0)
    parser.add_argument("--reduce", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    wish = parser.parse_args()
    predictor = load(wish.model, wish.threads)
    dataset = load_dataset(wish.data, (wish.split,), predictor.class_names)
    records = dataset.records[:: wish.every]
    with tempfile.TemporaryDirectory() as folder:
        if wish.enlarge > 1:
            records = [enlarge(r, wish.enlarge, Path(folder) / f"{n}.jpg") for n, r in enumerate(records)]
        dataset = dataclasses.replace(dataset, records=records)

        def whole(record: Record) -> Detections:
            if wish.inset:
                return inset(predictor, record, wish.inset, 1)
            return predictor.predict_pixels(*read_image(record.path), EVALUATION_SCORE_THRESHOLD, IOU_THRESHOLD)

        def reduced(record: Record) -> Detections:
            return inset(predictor, record, wish.inset, wish.reduce) if wish.inset else predictor.predict_record(record)

        full, other = evaluate(whole, dataset), evaluate(reduced, dataset)
    print(f"{wish.model} on {len(records)} pictures of {wish.data.name} ({wish.split}), enlarged {wish.enlarge} times")
    for name, result in (("full", full), ("reduced", other)):
        print(f"{name:8} AP {100 * result.ap:.2f}, AP50 {100 * result.ap50:.2f}")
    pairs = [differences(a, b) for a, b in zip(full.detections, other.detections, strict=True)]
    far = np.array([value for values, _ in pairs for value in values])
    scales = [wish.inset or max(d.image_size) / max(predictor.metadata.input_size) for d in full.detections]
    in_input = np.array([v / scale for (values, _), scale in zip(pairs, scales, strict=True) for v in values])
    for name, values in (("image", far), ("input", in_input)):
        median, most, last = np.quantile(values, (0.5, 0.95, 1))
        share = (values <= 1).mean()
        print(f"boxes, {name} pixels: median {median:.2f}, 95 % {most:.2f}, all {last:.2f}; {share:.1%} within 1")
    print(f"boxes without a partner: {sum(alone for _, alone in pairs)} of {len(far)}")


if __name__ == "__main__":
    main()
