import json

import numpy as np
import pytest

from pocketdet import cli
from pocketdet.core.images import read_image
from pocketdet.loading import ASSETS

av = pytest.importorskip("av")
pytest.importorskip("norfair")


@pytest.fixture
def run(capsys):
    def run_it(*arguments):
        code = cli.main([str(a) for a in arguments])
        return (code, *capsys.readouterr())

    return run_it


@pytest.fixture(scope="module")
def cat(tmp_path_factory, video_writer):
    """A real cat that goes 120 pixels to the right in 16 frames of 440 x 300."""
    photo = np.pad(read_image(ASSETS / "chelsea.jpg").pixels[:300, :440], ((0, 0), (140, 0), (0, 0)), mode="edge")
    frames = [np.ascontiguousarray(photo[:, 140 - 8 * n : 580 - 8 * n]) for n in range(16)]
    return video_writer(tmp_path_factory.mktemp("cat") / "cat.mp4", frames, codec_options={"crf": "18"})


def test_a_cat_keeps_its_identity_and_is_counted(run, cat, tmp_path):
    x = centre_of_the_cat(run, cat, 8) + 4  # it moves on by 9 pixels to the next frame
    line, zone = f"{x},0,{x},300", f"{x},0,440,0,440,300,{x},300"
    options = ["--model", "animals-small", "--line", line, "--zone", zone, "--threads", 1]
    code, output, errors = run("track", cat, *options, "--output", tmp_path / "tracks")
    assert (code, errors) == (0, "")
    assert "cat.mp4 (440 x 300): 16 frames, 1.5 s" in output
    assert "identities: 1 cat" in output
    assert f"line ({x:g}, 0) ({x:g}, 300): to the left 1 cat; to the right none" in output
    assert "entered 1 cat; now inside 1 cat" in output
    rows = [line.split(",") for line in (tmp_path / "tracks" / "cat.txt").read_text().splitlines()]
    assert [int(row[0]) for row in rows] == list(range(2, 17))  # an identity comes with the second sight
    assert {row[1] for row in rows} == {"1"}
    lefts = [float(row[2]) for row in rows]
    assert lefts[-1] - lefts[0] == pytest.approx(8 * 14, abs=30)
    with av.open(str(tmp_path / "tracks" / "cat.mp4")) as drawn, av.open(str(cat)) as source:
        pairs = list(zip(drawn.decode(video=0), source.decode(video=0), strict=True))
    assert len(pairs) == 16
    before, after = (frame.to_ndarray(format="rgb24").astype(int) for frame in pairs[-1][::-1])
    assert np.abs(before - after).max() > 100


def centre_of_the_cat(run, cat, frame):
    code, output, errors = run("track", cat, "--model", "animals-small", "--json", "--threads", 1)
    assert (code, errors) == (0, "")
    *lines, last = [json.loads(line) for line in output.splitlines()]
    assert last == {"counts": {"identities": {"cat": 1}, "lines": [], "zones": []}}
    assert [line["frame"] for line in lines] == list(range(16))
    assert lines[0]["objects"] == []
    (found,) = lines[frame]["objects"]
    assert (found["id"], found["class"]) == (1, "cat")
    return round((found["box"][0] + found["box"][2]) / 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--line", "1,2,3"], "--line 1,2,3: expected pixels such as x1,y1,x2,y2"),
        (["--zone", "1,2,3,4"], "--zone 1,2,3,4: expected pixels such as x1,y1,x2,y2,x3,y3"),
    ],
)
def test_bad_lines_and_zones_are_named(run, cat, options, words):
    code, output, errors = run("track", cat, *options)
    assert (code, output) == (2, "")
    assert words in errors


def test_a_missing_video_is_one_message(run, tmp_path):
    code, output, errors = run("track", tmp_path / "gone.mp4", "--model", "animals-small")
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert "gone.mp4: cannot be opened as a video" in errors
