"""A detector over the frames of a video, a camera or a stream."""

import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from numpy import uint8
from numpy.typing import NDArray

from pocketdet.core.detections import Detections
from pocketdet.runtime.background import Ahead
from pocketdet.runtime.live import LiveStream
from pocketdet.runtime.predictor import IOU_THRESHOLD, SCORE_THRESHOLD, Predictor
from pocketdet.runtime.sources import VIDEO_SUFFIXES, is_camera
from pocketdet.runtime.video import Frame, VideoFile, public_name

_STREAMED_SUFFIXES = frozenset({".ts"})  # of a URL, these are more often broadcasts than files


class Seen(NamedTuple):
    """What was found in a frame."""

    frame: Frame
    detections: Detections


def open_video(source: str | Path, note: Callable[[str], None] = lambda text: None) -> VideoFile | LiveStream:
    """The frames that a source gives: of a file all, of a camera or stream the newest.

    Args:
        source: A video file or the HTTP address of one, the number of a camera, or the URL of a stream.
        note: Is told when a stream is lost and when it is back.

    Raises:
        VideoError: It cannot be opened or has no video.
        MissingExtraError: PyAV is not installed.
    """
    text = str(source)
    suffix = Path(urlsplit(text).path if "://" in text else text).suffix.lower()
    has_end = re.match("https?://", text) and suffix in VIDEO_SUFFIXES - _STREAMED_SUFFIXES
    if has_end or not ("://" in text or is_camera(text)):
        return VideoFile(text)
    return LiveStream(text, note=note)


def detect_frames(
    predictor: Predictor,
    video: VideoFile | LiveStream,
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
) -> Generator[Seen, None, None]:
    """Find objects in each frame; a file's next frames are decoded meanwhile.

    Args:
        predictor: The detector.
        video: From ``open_video``.
        score_threshold: Only detections with a score above this, 0 to 1.
        iou_threshold: Boxes of one class that overlap more than this are one object, 0 to 1.

    Raises:
        VideoError: Reading stops before the end.
        SettingsError: A threshold is not in 0 to 1.
    """

    def shrink() -> Iterator[tuple[Frame, NDArray[uint8]]]:
        for frame in video:
            yield frame, frame.pixels(predictor.metadata.letterbox(frame.size).resized)

    def detect(frame: Frame, pixels: NDArray[uint8]) -> Seen:
        return Seen(frame, predictor.predict_pixels(pixels, frame.size, score_threshold, iou_threshold))

    if video.is_live:  # what waits in a queue is no longer the newest
        yield from (detect(*item) for item in shrink())
        return
    with Ahead(shrink()) as shrunk:
        yield from (detect(*item) for item in shrunk)


def video_name(source: str | Path) -> str:
    """A file name, without suffix, for what is made of a source."""
    text = public_name(str(source))
    if text.isdecimal():
        return f"camera-{text}"
    if "://" not in text:
        return Path(text.removeprefix("video=")).stem
    parts = urlsplit(text)
    return Path(parts.path).stem or re.sub(r"[^\w.-]", "-", parts.netloc)
