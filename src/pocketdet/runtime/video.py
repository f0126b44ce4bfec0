"""Video files: every frame upright and with its time, read and written by PyAV."""

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.yuv import Planes
from pocketdet.errors import MissingExtraError, VideoError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

TICKS = 90_000  # a second, in written files: MPEG's clock, in which all common frame rates are whole numbers
DEFAULT_RATE = 25  # frames a second, where a file does not say
# "veryfast" costs 0.6 of the time of "medium" for about a tenth more bytes; 23 is x264's default quality.
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "23"}

BT709 = 1  # ITU-T H.273's number of the colours of high definition


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video.

    Args:
        index: From 0; a live source counts the frames that it left out, too.
        seconds: Since the first frame.
        picture: As PyAV decoded it.
    """

    index: int
    seconds: float
    picture: "VideoFrame"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), upright."""
        height, width = self.picture.height, self.picture.width
        return (width, height) if self._quarter_turns % 2 else (height, width)

    def pixels(self, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Upright RGB.

        Args:
            size: (height, width) to which the frame is scaled in the same step; by default its own.

        Returns:
            ``(H, W, 3)``, which may be written to.
        """
        height, width = size or self.size
        if self._quarter_turns % 2:
            height, width = width, height
        scaled = self.picture.to_ndarray(format="rgb24", width=width, height=height, interpolation="BILINEAR")
        return np.ascontiguousarray(np.rot90(scaled, self._quarter_turns), np.uint8)

    def to_drawable(self) -> tuple["VideoFrame", Planes]:
        """A copy to draw into and to encode: upright, 4:2:0, sides even; and its planes."""
        import av

        picture = self.picture
        width, height = (side - side % 2 for side in (picture.width, picture.height))
        plain = picture.reformat(max(2, width), max(2, height), "yuv420p")
        width, height = (plain.height, plain.width) if self._quarter_turns % 2 else (plain.width, plain.height)
        copy = av.VideoFrame(width, height, "yuv420p")
        copy.colorspace, copy.color_range = plain.colorspace, plain.color_range
        planes = [_view(plane) for plane in copy.planes]
        for plane, source in zip(planes, plain.planes, strict=True):
            plane[:] = np.rot90(_view(source), self._quarter_turns)
        return copy, Planes(planes[0], planes[1], planes[2], picture.colorspace == BT709)

    @property
    def _quarter_turns(self) -> int:
        """Counter-clockwise: phones write the sensor's rows and how to turn them."""
        return round(self.picture.rotation / 90) % 4


class VideoFile:
    """The frames of a file, each once and in order.

    Args:
        path: The file; also a URL of one.

    Raises:
        VideoError: The file is missing, cut, or has no video.
        MissingExtraError: PyAV is not installed.
    """

    is_live = False

    def __init__(self, path: str | Path) -> None:
        self._container = open_container(str(path))
        self.damaged = 0
        """Packets so far that could not be decoded."""
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"

    def __iter__(self) -> Iterator[Frame]:
        step = 1 / self.rate
        first = last = None
        for index, picture in enumerate(self._pictures()):
            time = picture.time
            if time is None:
                time = 0.0 if last is None else last + step
            first = time if first is None else first
            last = time
            yield Frame(index, time - first, picture)

    @property
    def rate(self) -> float:
        """Frames a second, on average."""
        return float(self._stream.average_rate or DEFAULT_RATE)

    @property
    def expected_frames(self) -> int | None:
        """How many there are, as far as the file says."""
        rate, duration, base = self._stream.average_rate, self._stream.duration, self._stream.time_base
        if self._stream.frames or not (rate and duration and base):
            return self._stream.frames or None
        return round(duration * base * rate)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _pictures(self) -> Iterator["VideoFrame"]:
        import av

        try:
            for packet in self._container.demux(self._stream):
                try:
                    yield from packet.decode()
                except av.error.InvalidDataError:
                    self.damaged += 1
        except av.error.FFmpegError as error:
            raise VideoError(
                f"{public_name(self._container.name)}: reading stopped ({error.strerror}); the file may be cut"
            ) from error


class VideoWriter:
    """Writes an MP4 file of H.264 frames with their times, without sound.

    The size is that of the first frame, made even, as H.264's colours ask for; others are scaled to it.

    Args:
        path: The file; missing folders are made.

    Raises:
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        require_av(f"{path}: a video")
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def write(self, picture: "VideoFrame", seconds: float) -> None:
        """Append a frame.

        Args:
            picture: Of any size; ``Frame.to_drawable`` makes one.
            seconds: Since the first frame; more than the last frame's.

        Raises:
            VideoError: The file cannot be written.
        """
        import av

        try:
            if self._stream is None:
                self._open(picture)
            frame = picture.reformat(self._stream.width, self._stream.height, "yuv420p")
            self._last = max(self._last + 1, round(seconds * TICKS))
            frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Write what is still in the encoder and finish the file; without it, nothing can play it.

        Raises:
            VideoError: The file cannot be written.
        """
        import av

        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            container.mux(self._stream.encode(None))
            container.close()
        except (av.error.FFmpegError, OSError) as error:
            raise self._error(error) from error

    def _open(self, first: "VideoFrame") -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The index in front lets a browser play the file before it has all of it.
        self._container = av.open(str(self.path), "w", options={"movflags": "faststart"})
        self._stream = self._container.add_stream("libx264", rate=DEFAULT_RATE, options=ENCODER_OPTIONS)
        self._stream.width, self._stream.height = (max(2, side - side % 2) for side in (first.width, first.height))
        self._stream.pix_fmt = "yuv420p"
        self._stream.colorspace, self._stream.color_range = first.colorspace, first.color_range
        self._stream.codec_context.time_base = Fraction(1, TICKS)

    def _error(self, error: Exception) -> VideoError:
        return VideoError(f"{self.path}: the video cannot be written ({getattr(error, 'strerror', None) or error})")


def open_container(address: str, **options: Any) -> "InputContainer":
    """What PyAV reads, with at least one video stream.

    Args:
        address: A path, URL or device.
        options: Of ``av.open``.

    Raises:
        VideoError: It cannot be opened or has no video.
        MissingExtraError: PyAV is not installed.
    """
    require_av(f"{public_name(address)}: a video")
    import av

    try:
        container: InputContainer = av.open(address, mode="r", **options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise VideoError(
            f"{public_name(address)}: cannot be opened as a video ({reason}); "
            "check the path or address, and that it is a whole file"
        ) from error
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams}))
        container.close()
        raise VideoError(f"{public_name(address)}: has no video, only {kinds or 'nothing'}; it may be cut")
    return container


def require_av(purpose: str) -> None:
    """Check that PyAV is installed.

    Raises:
        MissingExtraError: It is not.
    """
    import importlib.util

    if importlib.util.find_spec("av") is None:
        raise MissingExtraError(f'{purpose} needs av (PyAV), not installed here; run: pip install "pocketdet[video]"')


def public_name(address: str) -> str:
    """An address without the user name and password in it, for messages, file names and results."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        return address
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _view(plane: Any) -> NDArray[np.uint8]:
    """``(H, W)``, without the bytes that fill up the rows."""
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]
