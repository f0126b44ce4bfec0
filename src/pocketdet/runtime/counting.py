"""Counts identities by lines that they cross and zones that they enter."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pocketdet.errors import SettingsError
from pocketdet.runtime.tracking import Point, Tracks, box_centres, old_identities


class LineCounter:
    """Counts the objects whose centre crosses a line, by direction and class.

    Args:
        start: (x, y) in pixels.
        end: (x, y); left and right are as somebody sees them who walks from ``start`` to ``end``.
    """

    def __init__(self, start: Point, end: Point) -> None:
        self.points = (start, end)
        self.to_left: Counter[str] = Counter()
        self.to_right: Counter[str] = Counter()
        self._last: dict[int, Point] = {}

    def update(self, tracks: Tracks) -> None:
        """Take the next frame."""
        names = tracks.detections.class_names
        for identity, name, here in zip(tracks.ids.tolist(), names, box_centres(tracks.detections.boxes), strict=True):
            before = self._last.get(identity, here)
            self._last[identity] = here
            side = self._crossing(before, here)
            if side:
                (self.to_right if side > 0 else self.to_left)[name] += 1
        for identity in old_identities(self._last):
            del self._last[identity]

    def to_dict(self) -> dict[str, Any]:
        """The line and both counts by class."""
        (x1, y1), (x2, y2) = self.points
        return {"line": [x1, y1, x2, y2], "to_left": dict(self.to_left), "to_right": dict(self.to_right)}

    def _crossing(self, before: Point, here: Point) -> int:
        """1 when the step ends at the right of the line, -1 at its left, 0 when it does not cross it.

        A point on the line counts as at its left, so that a stop there is no second crossing.
        """
        start, end = self.points
        was_right, is_right = (_turn(start, end, point) > 0 for point in (before, here))
        if was_right == is_right:
            return 0
        # Both ends of the line must lie on different sides of the step, else it passes beside the line.
        if (_turn(before, here, start) > 0) == (_turn(before, here, end) > 0):
            return 0
        return 1 if is_right else -1


class ZoneCounter:
    """Counts the objects whose centre is, and ever was, in a polygon.

    Args:
        corners: (x, y) in pixels, at least three, in order.

    Raises:
        SettingsError: There are fewer corners.
    """

    def __init__(self, corners: Sequence[Point]) -> None:
        if len(corners) < 3:
            raise SettingsError(f"a zone has {len(corners)} corners; it needs at least 3")
        self.corners = tuple(corners)
        self.entered: Counter[str] = Counter()
        self.inside: Counter[str] = Counter()
        self._known: set[int] = set()

    def update(self, tracks: Tracks) -> None:
        """Take the next frame."""
        names = tracks.detections.class_names
        self.inside = Counter()
        for identity, name, here in zip(tracks.ids.tolist(), names, box_centres(tracks.detections.boxes), strict=True):
            if not self._contains(here):
                continue
            self.inside[name] += 1
            if identity not in self._known:
                self._known.add(identity)
                self.entered[name] += 1
        self._known.difference_update(old_identities(self._known))

    def to_dict(self) -> dict[str, Any]:
        """The zone, the identities that were ever in it by class, and those in the last frame."""
        zone = [value for corner in self.corners for value in corner]
        return {"zone": zone, "entered": dict(self.entered), "inside": dict(self.inside)}

    def _contains(self, point: Point) -> bool:
        """Whether a ray to the right leaves the polygon an odd number of times."""
        x, y = point
        found = False
        for (x1, y1), (x2, y2) in zip(self.corners, (*self.corners[1:], self.corners[0]), strict=True):
            if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
                found = not found
        return found


def parse_points(text: str, option: str, at_least: int, at_most: int | None = None) -> list[Point]:
    """``x1,y1,x2,y2,...`` as points.

    Args:
        text: Numbers, in pixels, with commas between them.
        option: Where the text came from, for the message.
        at_least: So many points.
        at_most: So many, if there is a limit.

    Raises:
        SettingsError: It is something else.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) % 2 or len(numbers) < 2 * at_least or (at_most and len(numbers) > 2 * at_most):
        example = ",".join(f"x{n},y{n}" for n in range(1, at_least + 1))
        raise SettingsError(f"{option} {text}: expected pixels such as {example}, with commas and without spaces")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _turn(start: Point, end: Point, point: Point) -> float:
    """Positive when a point lies at the right of the way from start to end, as y grows downwards."""
    return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])
