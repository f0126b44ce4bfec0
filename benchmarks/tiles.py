"""What tiles find on large pictures: AP on canvases of many small photos.

python benchmarks/tiles.py DATA [--model animals] [--split val] [--tiles 640 320 160] [--canvases 6] [--side 1280]

Every canvas is a made picture of --side pixels: on grey noise lie labelled photos from DATA, each reduced to a long
side of 60 to 140 pixels, chosen and placed by a seed. Real aerial or microscopic pictures differ in more than size.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pocketdet.core.detections import Detections
from pocketdet.datasets.load import load_dataset
from pocketdet.datasets.records import Dataset, Record
from pocketdet.evaluation import evaluate
from pocketdet.loading import load
from pocketdet.runtime.predictor import EVALUATION_SCORE_THRESHOLD

PLACE = 160  # pixels a photo, on a grid
LONG_SIDES = (60, 140)  # pixels


def make_canvas(records: Sequence[Record], side: int, path: Path, rng: np.random.Generator) -> Record:
    """One photo on each place of the grid, moved within it at random."""
    canvas = Image.fromarray(rng.normal(110, 12, (side, side, 3)).clip(0, 255).astype(np.uint8))
    boxes, class_ids = [], []
    for number, record in enumerate(records):
        row, column = divmod(number, side // PLACE)
        with Image.open(record.path) as file:
            photo = file.convert("RGB")
        scale = rng.integers(*LONG_SIDES) / max(photo.size)
        size = (round(photo.width * scale), round(photo.height * scale))
        left, top = (
            place * PLACE + int(rng.integers(PLACE - length)) for place, length in zip((column, row), size, strict=True)
        )
        canvas.paste(photo.resize(size, Image.Resampling.BOX, reducing_gap=2), (left, top))
        boxes.append(record.boxes * np.array([size[0] / photo.width, size[1] / photo.height] * 2) + [left, top] * 2)
        class_ids.append(record.class_ids)
    canvas.save(path, quality=95)
    ids = np.concatenate(class_ids)
    return Record(path, np.concatenate(boxes).astype(np.float32), ids, np.zeros(len(ids), bool))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="animals")
    parser.add_argument("--split", default="val")
    parser.add_argument("--tiles", type=int, nargs="+", default=[640, 320, 160])
    parser.add_argument("--canvases", type=int, default=6)
    parser.add_argument("--side", type=int, default=1280)
    wish = parser.parse_args()
    predictor = load(wish.model)
    source = load_dataset(wish.data, (wish.split,), predictor.class_names)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(source.records))
    # A third of the places stays empty, and no photo is used twice.
    number = (wish.side // PLACE) ** 2 * 2 // 3
    with tempfile.TemporaryDirectory() as folder:
        canvases = [
            make_canvas(
                [source.records[k] for k in order[n * number : (n + 1) * number]],
                wish.side,
                Path(folder) / f"{n}.jpg",
                rng,
            )
            for n in range(wish.canvases)
        ]
        dataset = Dataset(tuple(canvases), source.class_names)
        objects = sum(len(record.boxes) for record in canvases)
        print(f"{wish.model}, {wish.canvases} canvases of {wish.side} pixels, {objects} objects of {wish.data.name}")
        for tiles in (None, *wish.tiles):

            def look(record: Record, tiles: int | None = tiles) -> Detections:
                found: Detections = predictor.predict(record.path, EVALUATION_SCORE_THRESHOLD, tiles=tiles)
                return found

            start = time.process_time()
            result = evaluate(look, dataset)
            used = (time.process_time() - start) / len(canvases)
            small = ", ".join(f"{s.name} {100 * s.ap:.1f}" for s in result.by_size if s.ap is not None)
            print(
                f"{f'tiles {tiles}' if tiles else 'whole':10} AP {100 * result.ap:5.1f}, AP50 {100 * result.ap50:5.1f} "
                f"(AP of {small}); {used:.2f} s of processor time a canvas"
            )


if __name__ == "__main__":
    main()
