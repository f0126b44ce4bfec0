"""What a detector found in one picture."""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one picture, best score first.

    Args:
        boxes: ``(N, 4)`` xyxy in image pixels, float32.
        scores: ``(N,)`` objectness x class probability, 0 to 1, float32.
        class_ids: ``(N,)`` from 0, int64.
        names: All class names of the detector, in the order of the ids.
        image_size: (height, width) of the picture.
        source: Where the picture came from; empty for arrays and bytes.
        image: ``(H, W, 3)`` RGB of the picture, for drawing; ``None`` where it was not kept.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    names: tuple[str, ...]
    image_size: tuple[int, int]
    source: str = ""
    image: NDArray[np.uint8] | None = dataclasses.field(default=None, repr=False)

    @property
    def class_names(self) -> list[str]:
        """The name of each detection's class."""
        return [self.names[class_id] for class_id in self.class_ids]

    def __len__(self) -> int:
        return len(self.scores)

    def of_classes(self, names: Collection[str]) -> "Detections":
        """Only those of the named classes."""
        keep = np.array([name in names for name in self.class_names], bool)
        return dataclasses.replace(
            self, boxes=self.boxes[keep], scores=self.scores[keep], class_ids=self.class_ids[keep]
        )

    def to_dict(self) -> dict[str, object]:
        """Plain values: source, size and a list of objects with class, score and box."""
        objects = [
            {"class": name, "class_id": int(k), "score": round(float(s), 4), "box": [round(float(v), 1) for v in box]}
            for name, k, s, box in zip(self.class_names, self.class_ids, self.scores, self.boxes, strict=True)
        ]
        height, width = self.image_size
        return {"source": self.source, "height": height, "width": width, "objects": objects}

    def to_json(self) -> str:
        """``to_dict`` as one JSON object."""
        return json.dumps(self.to_dict())

    def save(self, path: str | Path) -> Path:
        """Write the picture with its boxes drawn in; the suffix chooses the format."""
        from pocketdet.core.drawing import save_drawing  # Pillow's fonts load lazily

        return save_drawing(self, path)
