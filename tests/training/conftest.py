"""A small data set that is drawn here: coloured boxes on noise, two classes."""

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red thing": (220, 40, 40), "blue thing": (40, 60, 220)}


def write_voc(folder: Path, count: int, size: int = 96) -> Path:
    """Write ``count`` pictures and their labels in VOC layout, a quarter of them as ``val``."""
    rng = np.random.default_rng(0)
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    names = [f"picture{number:03}" for number in range(count)]
    for number, name in enumerate(names):
        image = rng.integers(90, 160, (size, size, 3), dtype=np.uint8)
        objects = []
        for _ in range(0 if number % 7 == 6 else 1 + number % 2):
            label = list(COLOURS)[rng.integers(2)]
            width, height = rng.integers(24, 48, 2)
            left, top = rng.integers(0, size - width), rng.integers(0, size - height)
            image[top : top + height, left : left + width] = COLOURS[label]
            corners = zip(
                ("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, left + width, top + height), strict=True
            )
            sides = "".join(f"<{side}>{value}</{side}>" for side, value in corners)
            objects.append(f"<object><name>{escape(label)}</name><bndbox>{sides}</bndbox></object>")
        Image.fromarray(image).save(folder / "JPEGImages" / f"{name}.jpg", quality=92)
        text = f"<annotation><size><width>{size}</width><height>{size}</height></size>{''.join(objects)}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    splits = {"train": names[count // 4 :], "val": names[: count // 4]}
    for split, members in splits.items():
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(members) + "\n")
    return folder


@pytest.fixture(scope="session")
def drawn_voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("drawn") / "voc", 16)
