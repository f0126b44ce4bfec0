"""Identities over the frames of a video: which box is the same object as one in the frame before."""

import dataclasses
import importlib.util
from collections import deque
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.detections import Detections
from pocketdet.errors import MissingExtraError

MEMORY = 1.0  # seconds for which an object may be hidden
TRAIL = 1.5  # seconds
FARTHEST = 0.9  # 1 - IoU of a box with where the object is expected, at most

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Tracks:
    """The objects of a frame that have an identity.

    Args:
        detections: One a track, best score first.
        ids: ``(N,)`` from 1, int64; an identity keeps its class.
    """

    detections: Detections
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def to_dict(self) -> dict[str, Any]:
        """As of the detections, with an ``id`` in each object."""
        found: dict[str, Any] = self.detections.to_dict()
        found["objects"] = [
            {"id": int(identity), **values} for identity, values in zip(self.ids, found["objects"], strict=True)
        ]
        return found


class Tracker:
    """Gives detections identities, frame after frame, by Norfair: a Kalman filter an object, matched by IoU.

    An object gets its identity with its second detection and loses it when it is not seen for a second.

    Args:
        rate: Frames a second.

    Raises:
        MissingExtraError: Norfair is not installed.
    """

    def __init__(self, rate: float = 30.0) -> None:
        if importlib.util.find_spec("norfair") is None:
            raise MissingExtraError('tracking needs norfair, not installed here; run: pip install "pocketdet[track]"')
        import norfair

        self._norfair = norfair
        self._tracker = norfair.Tracker(
            distance_function="iou",
            distance_threshold=FARTHEST,
            initialization_delay=1,
            hit_counter_max=max(3, round(MEMORY * rate)),
        )
        self._frame = 0

    def update(self, detections: Detections) -> Tracks:
        """Take the next frame.

        Args:
            detections: All of the frame, perhaps none.

        Returns:
            Those that have an identity, with the boxes as they were detected.
        """
        self._frame += 1
        news = [
            self._norfair.Detection(
                points=box.astype(np.float64).reshape(2, 2), label=int(class_id), data=(self._frame, n)
            )
            for n, (box, class_id) in enumerate(zip(detections.boxes, detections.class_ids, strict=True))
        ]
        tracked = self._tracker.update(detections=news)
        ids = {
            last.data[1]: item.id for item in tracked if (last := item.last_detection).data[0] == self._frame
        }  # others are only expected to be somewhere
        keep = sorted(ids)
        chosen = dataclasses.replace(
            detections,
            boxes=detections.boxes[keep],
            scores=detections.scores[keep],
            class_ids=detections.class_ids[keep],
        )
        return Tracks(chosen, np.array([ids[n] for n in keep], np.int64))


class Trails:
    """Where each object was in the last frames, for drawing.

    Args:
        rate: Frames a second.
    """

    def __init__(self, rate: float = 30.0) -> None:
        self._length = max(2, round(TRAIL * rate))
        self._points: dict[int, deque[Point]] = {}

    def update(self, tracks: Tracks) -> dict[int, list[Point]]:
        """Take the next frame.

        Returns:
            Of each object in it, its centres so far, the newest last.
        """
        centres = box_centres(tracks.detections.boxes)
        for identity, centre in zip(tracks.ids.tolist(), centres, strict=True):
            self._points.setdefault(identity, deque(maxlen=self._length)).append(centre)
        for identity in old_identities(self._points):
            del self._points[identity]
        return {identity: list(self._points[identity]) for identity in tracks.ids.tolist()}


def box_centres(boxes: NDArray[np.float32]) -> list[Point]:
    """(x, y) of each xyxy box."""
    return [(float(x), float(y)) for x, y in (boxes[:, :2] + boxes[:, 2:]) / 2]


def old_identities(known: Collection[int]) -> list[int]:
    """Those that can be forgotten: all but the newest thousand, once there are twice as many."""
    return sorted(known)[:-1000] if len(known) > 2000 else []


def mot_lines(tracks: Tracks, frame: int) -> str:
    """Rows of MOTChallenge's text format: frame from 1, id, left, top, width, height, score, -1, -1, -1."""
    rows = zip(tracks.ids.tolist(), tracks.detections.boxes.tolist(), tracks.detections.scores.tolist(), strict=True)
    return "".join(
        f"{frame + 1},{identity},{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},{score:.4f},-1,-1,-1\n"
        for identity, (left, top, right, bottom), score in rows
    )
