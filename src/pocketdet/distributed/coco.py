"""Results of many pictures as one COCO JSON file."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_coco(rows: Iterable[dict[str, Any]], class_names: Sequence[str], path: Path) -> None:
    """Write images, annotations with scores, and categories; ids count from 1; pictures that failed are left out.

    The text is written row by row, so that memory does not grow with the pictures.

    Args:
        rows: From ``shards.read_parts``.
        class_names: In the order of the class ids.
        path: The file.
    """
    beside = path.with_name(f".{path.name}.writing")
    annotations = path.with_name(f".{path.name}.annotations")
    with beside.open("w", encoding="utf-8") as images, annotations.open("w", encoding="utf-8") as boxes:
        images.write('{"images": [')
        number = image_id = 0
        for row in rows:
            if row["error"] is not None:
                continue
            image_id += 1
            image = {"id": image_id, "file_name": row["path"], "height": row["height"], "width": row["width"]}
            images.write((",\n" if image_id > 1 else "\n") + json.dumps(image))
            for box, score, class_id in zip(row["boxes"], row["scores"], row["class_ids"], strict=True):
                number += 1
                entry = _annotation(number, image_id, class_id, box) | {"score": score}
                boxes.write((",\n" if number > 1 else "\n") + json.dumps(entry))
        images.write('\n], "annotations": [')
    with beside.open("a", encoding="utf-8") as whole, annotations.open(encoding="utf-8") as boxes:
        for line in boxes:
            whole.write(line)
        categories = [{"id": n + 1, "name": name} for n, name in enumerate(class_names)]
        whole.write(f'\n], "categories": {json.dumps(categories)}}}\n')
    annotations.unlink()
    os.replace(beside, path)


def _annotation(number: int, image_id: int, class_id: int, box: Sequence[float]) -> dict[str, Any]:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return {
        "id": number, "image_id": image_id, "category_id": class_id + 1, "bbox": [left, top, width, height],
        "area": width * height, "iscrowd": 0,
    }  # fmt: skip
