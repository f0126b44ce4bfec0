import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress

import numpy as np
import pytest

from pocketdet.errors import VideoError
from pocketdet.runtime import live
from pocketdet.runtime.backends import OnnxBackend
from pocketdet.runtime.live import LiveStream
from pocketdet.runtime.predictor import Predictor
from pocketdet.runtime.video_detection import detect_frames, open_video

pytest.importorskip("av")

RTSP_SERVER = shutil.which("rtsp-server-perl")  # Debian's package of this name
# Pushes a moving picture to an RTSP server, as a camera that is also a client does.
CAMERA = """
import sys, time
import av, numpy as np
with av.open(sys.argv[1], "w", format="rtsp", options={"rtsp_transport": "udp"}) as container:
    stream = container.add_stream("libx264", rate=25, options={"tune": "zerolatency", "g": "5"})
    stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
    for n in range(int(sys.argv[2])):
        pixels = np.zeros((128, 128, 3), np.uint8)
        pixels[48:64, 64:80, 0] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        time.sleep(0.04)
"""


class Broadcaster(http.server.ThreadingHTTPServer):
    """Sends an MPEG transport stream slowly; each connection ends without notice after some bytes."""

    daemon_threads = True

    def __init__(self, content, lengths, seconds):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.lengths, self.seconds = content, list(lengths), seconds
        self.requests = 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self):
        return f"http://me:secret@127.0.0.1:{self.server_address[1]}/live.ts"

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        length = server.lengths[min(server.requests, len(server.lengths) - 1)]
        server.requests += 1
        if not length:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        pieces = [server.content[n : n + 1880] for n in range(0, int(length * len(server.content)), 1880)]
        with suppress(OSError):  # the client has gone
            for piece in pieces:
                self.wfile.write(piece)
                time.sleep(server.seconds / (len(server.content) / 1880))

    def log_message(self, *_):
        pass


@pytest.fixture
def broadcast(tmp_path, video_writer):
    """Starts a broadcast of 50 frames, ever brighter; given: which part each connection gets, and how slowly."""
    frames = [np.full((64, 64, 3), 5 * n, np.uint8) for n in range(50)]
    noise = np.random.default_rng(0).integers(0, 5, (64, 64, 3), np.uint8)  # gives the stream some bytes
    content = video_writer(tmp_path / "live.ts", [frame + noise for frame in frames]).read_bytes()
    servers = []

    def start(*lengths, seconds=0.5):
        servers.append(Broadcaster(content, lengths, seconds))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(live, "FIRST_PAUSE", 0.05)


def watch(stream, enough, seconds=10):
    """Frames until ``enough(frame)``, or an assertion error after some seconds."""
    end, frames = time.monotonic() + seconds, []
    for frame in stream:
        frames.append(frame)
        if enough(frame):
            return frames
        assert time.monotonic() < end
    raise AssertionError("the stream ended")


def test_a_lost_connection_is_made_again(broadcast):
    server, notes = broadcast(0.5, 0, 0, 1), []
    with closing(LiveStream(server.address, note=notes.append)) as stream:
        frames = watch(stream, lambda frame: stream.connections > 1 and frame.pixels().mean() > 200)
        assert server.requests >= 4
        assert stream.connections >= 2
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    assert [frame.seconds for frame in frames] == sorted(frame.seconds for frame in frames)
    assert any("connecting again" in note for note in notes)
    assert notes[-1].endswith("connected again")
    assert not any("secret" in note for note in notes)


def test_the_newest_frame_wins_over_those_in_between(broadcast):
    """50 frames in two seconds, and a reader that needs a second for each."""
    with closing(LiveStream(broadcast(1, seconds=2).address)) as stream:
        frames = iter(stream)
        first = next(frames)
        time.sleep(1)
        second = next(frames)
        assert second.index - first.index > 8
        assert second.seconds - first.seconds > 0.5
        assert second.pixels().mean() - first.pixels().mean() > 40


def test_a_stream_that_stays_away_is_given_up_in_the_end(broadcast):
    stream = LiveStream(broadcast(0.5, 0).address, patience=0.3)
    with closing(stream), pytest.raises(VideoError, match=r"live.ts: no frame for 0 s after \d+ frames; given up"):
        for _ in stream:
            pass


def test_what_never_worked_is_an_error_at_once(broadcast):
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        LiveStream(broadcast(0).address)


def test_pauses_grow_to_a_limit(broadcast, monkeypatch):
    monkeypatch.setattr(live, "LONGEST_PAUSE", 0.2)
    server = broadcast(0.5, 0)
    with closing(LiveStream(server.address, patience=1.5)) as stream, pytest.raises(VideoError):
        list(stream)
    assert 6 <= server.requests <= 11  # 0.05 + 0.1 + 0.2 + 0.2 + ... seconds


def test_closing_ends_a_stream_that_somebody_waits_for(broadcast):
    stream = LiveStream(broadcast(0.5, 0).address)
    threading.Timer(0.5, stream.close).start()
    start = time.monotonic()
    assert all(frame.index >= 0 for frame in stream)
    assert time.monotonic() - start < 5


def test_a_web_address_of_a_file_gives_every_frame(tmp_path, video_writer):
    video_writer(tmp_path / "clip.mp4", [np.full((64, 64, 3), n, np.uint8) for n in range(30)])

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with closing(open_video(f"http://127.0.0.1:{server.server_address[1]}/clip.mp4?token=1")) as video:
        assert not video.is_live
        assert [frame.index for frame in video] == list(range(30))
    server.shutdown()
    server.server_close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_rtsp_server(client_port, source_port):
    addresses = ["--client_listen_address", "127.0.0.1", "--source_listen_address", "127.0.0.1"]
    ports = ["--clientport", str(client_port), "--serverport", str(source_port)]
    process = subprocess.Popen([RTSP_SERVER, *ports, *addresses], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", source_port), 1):
            return process
        time.sleep(0.05)
    raise AssertionError("the RTSP server did not start")


def open_when_sent(address, note):
    """The camera takes a while to start, on a busy machine a long one."""
    for _ in range(60):
        with suppress(VideoError):
            return LiveStream(address, note=note)
        time.sleep(0.5)
    raise AssertionError("the camera did not start")


@pytest.mark.skipif(RTSP_SERVER is None, reason="needs Debian's package rtsp-server-perl")
def test_a_real_rtsp_server_is_watched_and_found_again(tiny_model, monkeypatch):
    """The server is killed and started again while it is watched."""
    monkeypatch.setattr(live, "READING", 1.5)
    predictor = Predictor(OnnxBackend(tiny_model, threads=1))
    ports = free_port(), free_port()
    push = [sys.executable, "-c", CAMERA, f"rtsp://127.0.0.1:{ports[1]}/yard", "400"]
    running, notes = [], []

    def start():
        running.append(start_rtsp_server(*ports))
        running.append(subprocess.Popen(push, env={**os.environ}, stderr=subprocess.DEVNULL))

    def stop():
        while running:
            process = running.pop()
            process.kill()
            process.wait()

    try:
        start()
        with closing(open_when_sent(f"rtsp://127.0.0.1:{ports[0]}/yard", notes.append)) as stream:
            for seen in detect_frames(predictor, stream, score_threshold=0.9):
                if len(running) == 2 and not notes and seen.frame.index > 10:
                    np.testing.assert_allclose(seen.detections.boxes, [[64, 48, 80, 64]], atol=0.5)
                    stop()
                    start()
                if stream.connections > 1:
                    break
        assert any("connecting again" in note for note in notes)
    finally:
        stop()
