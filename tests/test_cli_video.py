import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from pocketdet import cli

av = pytest.importorskip("av")


@pytest.fixture
def run(capsys):
    def run_it(*arguments):
        code = cli.main([str(a) for a in arguments])
        return (code, *capsys.readouterr())

    return run_it


@pytest.fixture
def video(tmp_path, video_writer, walking_cell):
    return video_writer(tmp_path / "walk.mp4", walking_cell)


def count_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_predict_sums_a_video_up_and_draws_it(run, video, tmp_path, tiny_model):
    code, output, errors = run("predict", video, "--model", tiny_model, "--output", tmp_path / "drawn")
    assert (code, errors) == (0, "")
    assert f"{video} (128 x 128): 20 frames, 1.9 s, " in output
    assert "red in 20 frames" in output
    assert f"the drawn video is {tmp_path / 'drawn' / 'walk.mp4'}, without sound" in output
    assert count_frames(tmp_path / "drawn" / "walk.mp4") == 20


def test_predict_json_is_a_line_a_frame(run, video, tiny_model):
    code, output, errors = run("predict", video, "--model", tiny_model, "--json")
    assert (code, errors) == (0, "")
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["frame"] for line in lines] == list(range(20))
    assert lines[13]["seconds"] == pytest.approx(1.3)
    assert (lines[13]["source"], lines[13]["height"], lines[13]["width"]) == (str(video), 128, 128)
    (found,) = lines[13]["objects"]
    assert found["class"] == "red"
    assert found["box"] == pytest.approx([48, 48, 64, 64], abs=0.2)


def test_a_bad_video_among_good_ones_is_named_and_the_others_go_on(run, video, tmp_path, tiny_model):
    (tmp_path / "bad.mp4").write_text("text")
    code, output, errors = run("predict", tmp_path / "bad.mp4", video, "--model", tiny_model)
    assert code == 2
    assert "bad.mp4: cannot be opened as a video" in errors
    assert "20 frames" in output


def test_pictures_and_videos_are_not_taken_together(run, video, tmp_path, tiny_model):
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    code, _, errors = run("predict", video, tmp_path / "black.png", "--model", tiny_model)
    assert code == 2
    assert "pictures and videos are given together" in errors


def test_predict_never_writes_over_its_video(run, video, tiny_model):
    before = video.read_bytes()
    code, _, errors = run("predict", video, "--model", tiny_model, "--output", video.parent)
    assert code == 2
    assert "would be overwritten" in errors
    assert video.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_a_signal_ends_a_video_with_a_whole_file(tmp_path, video_writer, walking_cell, tiny_model, number):
    source = video_writer(tmp_path / "long.mp4", walking_cell * 60)
    target = tmp_path / "drawn" / "long.mp4"
    arguments = ["predict", source, "--model", tiny_model, "--output", target.parent, "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pocketdet", *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not target.exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    frames = int(output.partition("(128 x 128): ")[2].partition(" frames")[0])
    assert 0 < frames < 1200
    assert abs(count_frames(target) - frames) <= 1
