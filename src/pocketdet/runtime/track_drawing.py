"""Draws identities, their trails, and the counts of lines and zones into frames."""

from collections.abc import Sequence
from typing import NamedTuple

from pocketdet.core.drawing import PALETTE, line_and_text
from pocketdet.core.yuv import Planes, draw_boxes, draw_path, draw_text
from pocketdet.runtime.counting import LineCounter, ZoneCounter
from pocketdet.runtime.tracking import Point, Tracks
from pocketdet.runtime.video import Frame

WHITE = (255, 255, 255)


class Caption(NamedTuple):
    """A line or the outline of a zone, with its counts at its first point."""

    points: Sequence[Point]
    text: str


class Tracked(NamedTuple):
    """All that is drawn into a frame.

    Args:
        frame: The frame.
        tracks: Its objects.
        trails: Of each identity, where it was, the newest last.
        captions: Of lines and zones.
    """

    frame: Frame
    tracks: Tracks
    trails: dict[int, list[Point]]
    captions: Sequence[Caption]


def captions_of(lines: Sequence[LineCounter], zones: Sequence[ZoneCounter]) -> list[Caption]:
    """The counts as they are now."""
    found = [Caption(line.points, f"left {line.to_left.total()}, right {line.to_right.total()}") for line in lines]
    for zone in zones:
        text = f"inside {zone.inside.total()}, entered {zone.entered.total()}"
        found.append(Caption((*zone.corners, zone.corners[0]), text))
    return found


def paint_tracks(item: Tracked, planes: Planes) -> None:
    """Lines and zones, trails, then boxes with class and identity; each identity has a colour."""
    line, _ = line_and_text(planes.size[::-1])
    for caption in item.captions:
        draw_path(planes, caption.points, WHITE, line)
    colours = [PALETTE[identity % len(PALETTE)] for identity in item.tracks.ids.tolist()]
    for identity, colour in zip(item.tracks.ids.tolist(), colours, strict=True):
        if len(item.trails[identity]) > 1:
            draw_path(planes, item.trails[identity], colour, line)
    found = item.tracks.detections
    labels = [f"{name} {identity}" for name, identity in zip(found.class_names, item.tracks.ids.tolist(), strict=True)]
    draw_boxes(planes, found, labels, colours)
    for caption in item.captions:
        draw_text(planes, caption.text, *caption.points[0], WHITE)
