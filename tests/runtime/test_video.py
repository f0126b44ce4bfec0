import resource
from pathlib import Path

import numpy as np
import pytest

from pocketdet.core.yuv import draw_boxes
from pocketdet.errors import SettingsError, VideoError
from pocketdet.runtime.backends import OnnxBackend
from pocketdet.runtime.background import Ahead, Behind
from pocketdet.runtime.drawn_video import DrawnVideo, paint_detections
from pocketdet.runtime.live import LiveStream
from pocketdet.runtime.predictor import Predictor
from pocketdet.runtime.sources import is_video
from pocketdet.runtime.video import VideoFile, VideoWriter, public_name
from pocketdet.runtime.video_detection import detect_frames, open_video, video_name

av = pytest.importorskip("av")

TIMES = [0.0, 0.1, 0.15, 0.5, 0.52]  # a variable frame rate


@pytest.fixture(scope="module")
def predictor(tiny_model):
    return Predictor(OnnxBackend(tiny_model, threads=1))


@pytest.fixture
def video(tmp_path, video_writer, walking_cell):
    return video_writer(tmp_path / "walk.mp4", walking_cell)


def grey(level, height=64, width=96):
    return np.full((height, width, 3), level, np.uint8)


def read(path):
    """(pixels, seconds) of each frame, by PyAV alone."""
    with av.open(str(path)) as container:
        return [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]


def draw_all(predictor, source, target, interrupted_at=None):
    with DrawnVideo(target, paint_detections) as drawn:
        for seen in detect_frames(predictor, VideoFile(source)):
            drawn.put(seen)
            if seen.frame.index == interrupted_at:
                raise KeyboardInterrupt


def test_every_frame_of_a_file_comes_once_and_in_order(tmp_path, video_writer):
    levels = [10 * n for n in range(24)]
    file = VideoFile(video_writer(tmp_path / "levels.mp4", [grey(level) for level in levels]))
    frames = list(file)
    assert [frame.index for frame in frames] == list(range(24))
    assert file.expected_frames == 24
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(24) / 10, atol=1e-6)
    np.testing.assert_allclose([frame.pixels().mean() for frame in frames], levels, atol=2)
    file.close()


def test_boxes_are_those_worked_by_hand(predictor, video):
    """A cell of the network is 16 pixels of the video."""
    found = list(detect_frames(predictor, VideoFile(video)))
    assert len(found) == 20
    for n, seen in enumerate(found):
        left = 16 * (n // 4)
        assert seen.detections.class_names == ["red"]
        np.testing.assert_allclose(seen.detections.boxes, [[left, 48, left + 16, 64]], atol=0.1)
        assert seen.detections.image_size == (128, 128)


def test_a_frame_gives_the_boxes_of_its_picture():
    """The decoder's own scaling must not move boxes: the bundled detector on a photo and on a video of it."""
    from pocketdet.core.images import read_image
    from pocketdet.core.letterbox import Letterbox
    from pocketdet.loading import ASSETS, load
    from pocketdet.runtime.video import Frame

    photo = read_image(ASSETS / "chelsea.jpg").pixels
    photo = photo[: photo.shape[0] // 2 * 2, : photo.shape[1] // 2 * 2]
    detector = load("animals-small", threads=1)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(photo)).reformat(format="yuv420p")
    frame = Frame(0, 0.0, picture)
    small = frame.pixels(Letterbox(frame.size, detector.metadata.input_size).resized)
    moved = detector.predict_pixels(small, frame.size, 0.3, 0.5)
    still = detector.predict(photo)
    assert moved.class_names == still.class_names == ["cat"]
    np.testing.assert_allclose(moved.boxes, still.boxes, atol=2)
    np.testing.assert_allclose(moved.scores, still.scores, atol=0.02)


def test_times_of_a_variable_frame_rate_are_kept(tmp_path, video_writer, predictor):
    source = video_writer(tmp_path / "vfr.mp4", [grey(40 * n) for n in range(5)], TIMES)
    with DrawnVideo(tmp_path / "drawn.mp4", paint_detections) as drawn:
        for seen in detect_frames(predictor, VideoFile(source)):
            assert seen.frame.seconds == pytest.approx(TIMES[seen.frame.index], abs=1e-6)
            drawn.put(seen)
    np.testing.assert_allclose([seconds for _, seconds in read(tmp_path / "drawn.mp4")], TIMES, atol=1e-4)


def test_times_begin_at_zero_wherever_the_file_begins(tmp_path, video_writer):
    late = video_writer(tmp_path / "late.ts", [grey(n) for n in range(4)], [7200.0, 7200.1, 7200.3, 7200.4])
    np.testing.assert_allclose([frame.seconds for frame in VideoFile(late)], [0, 0.1, 0.3, 0.4], atol=1e-4)


@pytest.mark.parametrize(
    ("rotation", "red_side"), [(-90, "top"), (90, "bottom"), (180, "right")], ids=["clockwise", "back", "headlong"]
)
def test_a_phone_s_video_is_looked_at_and_written_upright(tmp_path, video_writer, rotation, red_side):
    """Red at the left of the stored rows; a turn clockwise brings the left side to the top."""
    stored = grey(0)
    stored[:, :32, 0] = 255
    (frame,) = VideoFile(video_writer(tmp_path / "phone.mp4", [stored], rotation=rotation))
    upright = (64, 96) if rotation == 180 else (96, 64)
    assert frame.size == upright
    with DrawnVideo(tmp_path / "drawn.mp4", lambda item, planes: None) as drawn:
        drawn.put(type("Item", (), {"frame": frame})())
    for pixels in (frame.pixels(), read(tmp_path / "drawn.mp4")[0][0]):
        assert pixels.shape[:2] == upright
        sides = {"top": pixels[:16], "bottom": pixels[-16:], "right": pixels[:, -16:], "left": pixels[:, :16]}
        reds = {name: side[..., 0].mean() for name, side in sides.items()}
        assert max(reds, key=reds.get) == red_side
        assert reds[red_side] > 230


def test_what_is_not_drawn_on_keeps_its_colours(tmp_path, video_writer, predictor, walking_cell):
    background = np.random.default_rng(0).integers(0, 60, (8, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    source = video_writer(tmp_path / "plain.mp4", [background] * 3)
    with DrawnVideo(tmp_path / "drawn.mp4", paint_detections) as drawn:
        for seen in detect_frames(predictor, VideoFile(source), score_threshold=0.99):
            drawn.put(seen)
    for (before, _), (after, _) in zip(read(source), read(tmp_path / "drawn.mp4"), strict=True):
        assert np.abs(before.astype(int) - after).mean() < 3


def test_colours_of_high_definition_are_passed_on(tmp_path):
    with av.open(str(tmp_path / "hd.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.colorspace = stream.codec_context.colorspace = 1
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    (frame,) = VideoFile(tmp_path / "hd.mp4")
    picture, planes = frame.to_drawable()
    assert planes.is_bt709
    writer = VideoWriter(tmp_path / "copy.mp4")
    writer.write(picture, 0)
    writer.close()
    (copy,) = VideoFile(tmp_path / "copy.mp4")
    assert copy.picture.colorspace == 1


def test_odd_sides_are_made_even(tmp_path, predictor):
    """H.264 of 4:4:4 may have odd sides; what is written is 4:2:0."""
    with av.open(str(tmp_path / "odd.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 65, 63, "yuv444p"
        for p in (stream.encode(av.VideoFrame.from_ndarray(grey(90, 63, 65))), stream.encode(None)):
            container.mux(p)
    with DrawnVideo(tmp_path / "drawn.mp4", paint_detections) as drawn:
        for seen in detect_frames(predictor, VideoFile(tmp_path / "odd.mkv")):
            assert seen.frame.size == (63, 65)
            drawn.put(seen)
    assert read(tmp_path / "drawn.mp4")[0][0].shape == (62, 64, 3)


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path):
    writer = VideoWriter(tmp_path / "deep" / "two.mp4")
    for n, size in enumerate(((64, 96), (128, 192))):
        writer.write(av.VideoFrame.from_ndarray(grey(100, *size)), n / 10)
    writer.close()
    assert [pixels.shape for pixels, _ in read(tmp_path / "deep" / "two.mp4")] == [(64, 96, 3)] * 2


def test_damage_in_the_middle_costs_some_frames_and_no_more(tmp_path, video_writer):
    frames = [np.random.default_rng(n).integers(0, 255, (64, 96, 3), np.uint8) for n in range(40)]
    path = video_writer(tmp_path / "damaged.ts", frames)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes(content)
    found = list(VideoFile(path))
    assert 20 < len(found) <= 40
    assert found[-1].seconds == pytest.approx(3.9, abs=0.2)


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "bad.mp4: cannot be opened as a video .*No such file"),
        ("text", "bad.mp4: cannot be opened as a video .*check the path"),
        ("cut", r"bad.mp4: has no video, only data; it may be cut"),
        ("sound", "bad.mp4: has no video, only audio; it may be cut"),
    ],
)
def test_what_is_no_video_is_an_error(tmp_path, video_writer, walking_cell, kind, message):
    path = tmp_path / "bad.mp4"
    if kind == "text":
        path.write_text("This is text.\n" * 100)
    elif kind == "cut":
        video_writer(path, walking_cell)
        path.write_bytes(path.read_bytes()[:-600])
    elif kind == "sound":
        write_sound(path)
    with pytest.raises(VideoError, match=message):
        VideoFile(path)


def test_a_video_that_cannot_be_written_is_an_error(tmp_path, video, predictor):
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match="the video cannot be written"):
        draw_all(predictor, video, tmp_path / "file" / "out.mp4")


def test_an_interrupted_drawing_can_be_played(tmp_path, video, predictor):
    with pytest.raises(KeyboardInterrupt):
        draw_all(predictor, video, tmp_path / "drawn.mp4", interrupted_at=6)
    assert len(read(tmp_path / "drawn.mp4")) == 7


def test_thresholds_out_of_range_are_an_error(video, predictor):
    with pytest.raises(SettingsError, match="score_threshold is 30"):
        next(detect_frames(predictor, VideoFile(video), score_threshold=30))


def test_memory_does_not_grow_with_the_frames(tmp_path, predictor, video_writer):
    """A frame of 256 x 256 that is kept is 0.1 MiB; 500 of them would be 47."""
    source = video_writer(tmp_path / "many.mp4", [grey(n % 8, 256, 256) for n in range(700)])
    sizes = []
    with DrawnVideo(tmp_path / "drawn.mp4", paint_detections) as drawn:
        for seen in detect_frames(predictor, VideoFile(source)):
            drawn.put(seen)
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20)
    assert len(sizes) == 700
    assert sizes[-1] - sizes[200] < 10


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("holiday/beach.MOV", "beach"),
        ("0", "camera-0"),
        ("rtsp://me:secret@10.0.0.7:554/yard", "yard"),
        ("rtsp://me:secret@10.0.0.7:554", "10.0.0.7-554"),
        ("https://example.org/a/clip.mp4?token=1", "clip"),
        ("/dev/video2", "video2"),
    ],
)
def test_videos_are_known_by_their_names(source, name):
    assert is_video(source)
    assert video_name(source) == name


@pytest.mark.parametrize("source", ["photo.jpg", "photos", "photos/*.png", "10.jpg"])
def test_pictures_are_no_videos(source):
    assert not is_video(source)


def test_a_name_and_password_in_an_address_are_never_shown():
    assert public_name("rtsp://me:se/cret@10.0.0.7/yard").count("secret") == 0
    assert public_name("rtsp://me:secret@10.0.0.7/yard?x=1") == "rtsp://10.0.0.7/yard?x=1"
    with pytest.raises(VideoError) as raised:
        LiveStream("rtsp://me:secret@127.0.0.1:9/yard")
    assert "secret" not in str(raised.value)


def test_a_picture_folder_named_by_a_number_is_no_camera(tmp_path, monkeypatch):
    (tmp_path / "0").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_video("0")


def test_an_absent_camera_is_an_error():
    with pytest.raises(VideoError, match="77"):
        open_video("77")


def test_ahead_raises_the_error_of_its_thread_in_its_turn():
    def items():
        yield 1
        raise ValueError("no more")

    found = iter(Ahead(items()))
    assert next(found) == 1
    with pytest.raises(ValueError, match="no more"):
        next(found)


def test_ahead_reads_no_more_than_its_depth():
    made = []
    with Ahead((made.append(n) or n for n in range(1000)), depth=3) as items:
        assert next(iter(items)) == 0
    assert len(made) <= 6


def test_behind_does_all_and_raises_the_first_error():
    done = []
    behind = Behind(done.append)
    for n in range(20):
        behind.put(n)
    behind.close()
    assert done == list(range(20))
    broken = Behind(lambda n: 1 // n)
    broken.put(0)
    with pytest.raises(ZeroDivisionError):
        broken.close()


def test_boxes_are_drawn_where_they_are(predictor, video):
    seen = next(detect_frames(predictor, VideoFile(video)))
    picture, planes = seen.frame.to_drawable()
    draw_boxes(planes, seen.detections, labels=[""])
    pixels = picture.to_ndarray(format="rgb24")
    edge, inside = pixels[62, 8], pixels[56, 8]  # of the box (0, 48, 16, 64)
    assert np.abs(edge.astype(int) - (230, 159, 0)).max() < 8
    assert np.abs(inside.astype(int) - (255, 0, 0)).max() < 8
