"""Drawn frames into a video file, by a thread of its own."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from pocketdet.core.yuv import Planes, draw_boxes
from pocketdet.runtime.background import Behind
from pocketdet.runtime.video import Frame, VideoWriter
from pocketdet.runtime.video_detection import Seen


class Drawable(Protocol):
    """What is drawn: something with the frame that it belongs to."""

    @property
    def frame(self) -> Frame:
        """The frame."""


T = TypeVar("T", bound=Drawable)


class DrawnVideo(Generic[T]):
    """A video file that a thread draws and encodes while the network runs; leaving the context finishes the file.

    Args:
        path: An MP4 file.
        paint: Draws what was seen into the planes of its frame; called by the thread.

    Raises:
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: str | Path, paint: Callable[[T, Planes], None]) -> None:
        self._writer = VideoWriter(path)
        self._paint = paint
        self._behind = Behind(self._write)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._behind.close()
        finally:
            self._writer.close()

    def put(self, item: T) -> None:
        """Append a frame; waits while the thread is too far behind.

        Raises:
            VideoError: The file cannot be written.
        """
        self._behind.put(item)

    def _write(self, item: T) -> None:
        picture, planes = item.frame.to_drawable()
        self._paint(item, planes)
        self._writer.write(picture, item.frame.seconds)


def paint_detections(seen: Seen, planes: Planes) -> None:
    """Boxes with class and score."""
    draw_boxes(planes, seen.detections)
