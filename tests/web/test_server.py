"""Through a real server on loopback: what happens between sockets and signals."""

import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from pocketdet import cli
from pocketdet.web.page import DEMO_PICTURE

BODY_LIMIT = 300_000
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def small_server(start_server):
    """Two places, half a second for a body."""
    options = ("--max-requests", "2", "--time-limit", "1.5", "--max-body", str(BODY_LIMIT))
    with start_server(*options) as (process, port):
        yield process, port


class SlowClient:
    """Sends its request in two halves, and holds a place on the server between them."""

    def __init__(self, port, body):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        head = f"POST /v1/detect HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
        self._rest = body[20:]
        self._socket.sendall(head.encode() + body[:20])

    def finish(self):
        self._socket.sendall(self._rest)
        return self.answer()

    def answer(self):
        with self._socket:
            answer = http.client.HTTPResponse(self._socket)
            answer.begin()
            return answer.status, json.loads(answer.read())


def post(port, body, content_type="image/png"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/v1/detect", body, {"Content-Type": content_type})
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    return answer, document


def wait_for_requests(port, number):
    """Until the server works on so many requests."""
    for _ in range(300):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        if f"pocketdet_requests_in_progress {number}.0" in text:
            return
    pytest.fail(f"the server never worked on {number} requests at once")


def peak_memory(process):
    """Bytes, since the start."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_requests_in_flight_are_answered_before_the_server_ends(start_server, red_png):
    with start_server() as (process, port):
        clients = [SlowClient(port, red_png) for _ in range(2)]
        wait_for_requests(port, 2)
        process.send_signal(signal.SIGTERM)
        while True:  # until the server listens no more
            try:
                socket.create_connection(("127.0.0.1", port), timeout=30).close()
            except ConnectionError:
                break
        for client in clients:
            status, document = client.finish()
            assert status == 200
            assert document["pictures"][0]["objects"][0]["class"] == "red"
        assert process.wait(timeout=30) == -signal.SIGTERM


def test_ctrl_c_ends_with_130_and_without_a_traceback(start_server, capfd):
    with start_server() as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_server_says_when_to_try_again_and_then_works_again(small_server, red_png):
    _, port = small_server
    clients = [SlowClient(port, red_png) for _ in range(2)]
    wait_for_requests(port, 2)
    answer, document = post(port, red_png)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert "2 requests are being worked on" in document["detail"]
    assert [client.finish()[0] for client in clients] == [200, 200]
    assert post(port, red_png)[0].status == 200


def test_a_body_that_dribbles_is_408(small_server, red_png):
    status, document = SlowClient(small_server[1], red_png).answer()
    assert (status, document) == (408, {"detail": "the body took longer than 1.5 s"})


def test_a_client_that_sends_too_much_can_read_why_it_was_refused(small_server, red_png):
    _, port = small_server
    answer, document = post(port, bytes(3 * BODY_LIMIT))
    assert (answer.status, document) == (413, {"detail": f"the body is larger than {BODY_LIMIT} bytes"})
    answer, _ = post(port, bytes(BODY_LIMIT), "text/plain")
    assert answer.status == 415


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_bomb_costs_no_memory(small_server):
    process, port = small_server
    before = peak_memory(process)
    for width, height in ((14_000, 14_000), (12_000, 6_000), (40_000, 100)):
        pixels = zlib.compress(bytes(3 * width * height // 40))  # a 40th of the pixels, all zero
        chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", pixels))
        body = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
        assert post(port, body)[0].status == 413
    assert peak_memory(process) - before < 20e6  # the smallest of them has 12 MB of pixels, the largest 588


def test_no_file_beyond_the_page_is_served(small_server):
    for path in ("/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/v1/../pyproject.toml"):
        connection = http.client.HTTPConnection("127.0.0.1", small_server[1], timeout=30)
        connection.request("GET", path)
        assert connection.getresponse().status == 404
        connection.close()


def test_a_key_in_the_environment_is_wanted(start_server, red_png):
    with start_server(POCKETDET_API_KEY="secret") as (_, port):
        assert post(port, red_png)[0].status == 401


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (("--model", "animals", "animals"), {}, "two models are called 'animals'"),
        (("--host", "no.such.host.invalid"), {}, "cannot listen on no.such.host.invalid"),
        (("--port", "99999"), {}, "port is 99999"),
        (("--max-batch", "0"), {}, "max_batch is 0"),
        (("--time-limit", "0"), {}, "time_limit is 0"),
        (("--model", "lions"), {}, "no bundled detector has this name"),
        ((), {"POCKETDET_API_KEY": ""}, "POCKETDET_API_KEY is empty"),
    ],
)
def test_wrong_usage_gives_one_message(arguments, environment, words, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ | environment)
    assert cli.main(["serve", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert words in lines[0]


def test_a_missing_package_names_the_extra(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    assert cli.main(["serve"]) == 2
    assert 'pip install "pocketdet[serve]"' in capsys.readouterr().err


def test_an_address_in_use_is_named(small_server, capsys):
    assert cli.main(["serve", "--port", str(small_server[1])]) == 2
    assert f"port {small_server[1]}" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_documented_curl_commands_find_the_cat(start_server, tmp_path):
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/serving.md"))
    commands = dict.fromkeys(line.strip() for line in text.splitlines() if line.startswith("    curl "))
    assert len(commands) == 3
    shutil.copy(DEMO_PICTURE, tmp_path / "photo.jpg")
    with start_server("--threads", "1", models=("animals",)) as (_, port):
        for command in commands:
            words = ["bash", "-c", command.replace("127.0.0.1:8000", f"127.0.0.1:{port}")]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, check=True, timeout=120)
            (picture,) = json.loads(done.stdout)["pictures"]
            assert [one["class"] for one in picture["objects"]] == ["cat"], command
