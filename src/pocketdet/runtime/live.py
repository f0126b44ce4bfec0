"""Cameras and network streams: the newest frame, and another try when the connection is lost."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pocketdet.errors import VideoError
from pocketdet.runtime.video import Frame, open_container, public_name

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

OPENING, READING = 10.0, 5.0  # seconds of silence after which a connection counts as lost
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two tries; each pause is twice the one before
PATIENCE = 600.0  # seconds without a frame after which a stream that once worked is given up

_CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}:none"),
}


class LiveStream:
    """The newest frame of a camera or stream, whenever one is asked for; those in between are left out.

    A thread receives. When the connection is lost it connects again, with pauses that grow from 0.5 to 30 s.

    Args:
        address: The number of a camera, or an RTSP, HTTP or other URL that FFmpeg can read.
        patience: Seconds without a frame after which a lost stream is given up.
        note: Is told, in a sentence, when the connection is lost and when it is back.

    Raises:
        VideoError: The first connection fails.
        MissingExtraError: PyAV is not installed.
    """

    is_live = True
    expected_frames = None
    rate = 15.0  # of frames that are looked at; about what a small machine does

    def __init__(
        self, address: str, patience: float = PATIENCE, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self._address, self._patience, self._note = address, patience, note
        self._news = threading.Condition()
        self._newest: Frame | None = None
        self._error: Exception | None = None
        self._closed = False
        self.damaged = 0
        """Packets so far that could not be decoded."""
        self._start: float | None = None  # when the first frame came
        container = _connect(address)
        self.connections = 1
        """How often it was connected."""
        self._thread = threading.Thread(target=self._receive, args=(container,), name="pocketdet-live", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._newest or self._error or self._closed)
                frame, self._newest = self._newest, None
                if frame is None:
                    if self._error and not self._closed:
                        raise self._error
                    return
            yield frame

    def close(self) -> None:
        """End the stream."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._thread.join(READING + 1)  # a read that hangs ends by itself

    def _receive(self, container: "InputContainer | None") -> None:
        index, pause, last = 0, FIRST_PAUSE, time.monotonic()
        while not self._closed:
            if container is not None:
                before = index
                index, reason = self._publish_all(container, index)
                if index > before:
                    pause, last = FIRST_PAUSE, time.monotonic()
                if self._closed:
                    return
                self._note(f"{public_name(self._address)}: {reason}; connecting again")
            if time.monotonic() - last > self._patience:
                self._give_up(index)
                return
            with self._news:
                self._news.wait_for(lambda: self._closed, timeout=pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            container = self._connect_again()

    def _publish_all(self, container: "InputContainer", index: int) -> tuple[int, str]:
        """Until the connection is lost: the next index, and why."""
        import av

        reason = "the stream ended"
        try:
            for packet in container.demux(container.streams.video[0]):
                try:
                    pictures = packet.decode()
                except av.error.InvalidDataError:
                    self.damaged += 1
                    continue
                for picture in pictures:
                    if self._closed:
                        return index, ""
                    self._publish(index, picture)
                    index += 1
        except (av.error.FFmpegError, OSError) as error:
            reason = f"the connection was lost ({error.strerror or type(error).__name__})"
        finally:
            container.close()
        return index, reason

    def _publish(self, index: int, picture: "VideoFrame") -> None:
        now = time.monotonic()
        self._start = now if self._start is None else self._start
        with self._news:
            self._newest = Frame(index, now - self._start, picture)
            self._news.notify_all()

    def _connect_again(self) -> "InputContainer | None":
        if self._closed:
            return None
        with contextlib.suppress(VideoError):
            container = _connect(self._address)
            self.connections += 1
            self._note(f"{public_name(self._address)}: connected again")
            return container
        return None

    def _give_up(self, frames: int) -> None:
        with self._news:
            self._error = VideoError(
                f"{public_name(self._address)}: no frame for {self._patience:.0f} s after {frames} frames; "
                "given up: check the camera and the network"
            )
            self._news.notify_all()


def _connect(address: str) -> "InputContainer":
    """RTSP by TCP, which loses nothing, else by UDP, which is all that some cameras can do."""
    kind, device = _device(address)
    waits = (OPENING, READING)
    if not address.startswith(("rtsp:", "rtsps:")):
        return open_container(device, format=kind, timeout=waits)
    with contextlib.suppress(VideoError):
        return open_container(address, options={"rtsp_transport": "tcp"}, timeout=waits)
    return open_container(address, options={"rtsp_transport": "udp"}, timeout=waits)


def _device(address: str) -> tuple[str | None, str]:
    """FFmpeg's kind of input and its name for a camera; other addresses tell their kind themselves."""
    if address.isdecimal():
        if sys.platform not in _CAMERAS:
            raise VideoError(f"camera {address}: cameras have names here; give one such as 'video=Integrated Camera'")
        kind, device = _CAMERAS[sys.platform]
        return kind, device.format(address)
    if address.startswith("/dev/video"):
        return "v4l2", address
    return ("dshow" if address.startswith("video=") else None), address
