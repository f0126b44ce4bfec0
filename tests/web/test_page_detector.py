"""The page's letterbox, decoder, NMS and file reader against Python's, in node."""

import dataclasses
import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from pocketdet.core.decode import LevelLogits, decode_picture
from pocketdet.core.letterbox import Letterbox
from pocketdet.loading import ASSETS, load
from pocketdet.runtime.predictor import Prepared
from pocketdet.web.page import DEMO_PICTURE, STATIC

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


@pytest.fixture
def run_node(tmp_path):
    """Results of jobs whose files lie in ``tmp_path``."""

    def run(*jobs):
        (tmp_path / "jobs.json").write_text(json.dumps(jobs))
        command = ["node", Path(__file__).parent / "run_detector.mjs", STATIC / "detector.js", tmp_path]
        subprocess.run([str(part) for part in command], check=True, timeout=120)
        return json.loads((tmp_path / "results.json").read_text())

    return run


SIZES = [(300, 451), (64, 64), (50, 200), (1, 900), (777, 333), (40, 41), (65, 63), (129, 64)]


def test_the_letterbox_gives_python_s_pixels(run_node, tmp_path):
    rng = np.random.default_rng(0)
    jobs, expected = [], []
    for n, (size, stretch) in enumerate(itertools.product(SIZES, (False, True))):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        rgba = np.dstack((pixels, np.full(size, 255, np.uint8)))
        (tmp_path / f"{n}.rgba").write_bytes(rgba.tobytes())
        letterbox = Letterbox(size, (64, 96), stretch)
        expected.append((letterbox.resized, letterbox.offset, letterbox.apply(pixels, (1, 2, 3))))
        job = {"rgba": f"{n}.rgba", "imageSize": size, "inputSize": (64, 96), "colour": (1, 2, 3), "out": f"{n}.rgb"}
        jobs.append({"action": "letterbox", "stretch": stretch, **job})
    results = run_node(*jobs)
    for n, (resized, offset, pixels) in enumerate(expected):
        assert (tuple(results[n]["resized"]), tuple(results[n]["offset"])) == (resized, offset)
        theirs = np.frombuffer((tmp_path / f"{n}.rgb").read_bytes(), np.uint8).reshape(pixels.shape)
        assert np.abs(theirs.astype(int) - pixels).max() <= 1  # Pillow rounds its weights


@pytest.mark.parametrize(("score", "iou"), [(0.3, 0.5), (0.02, 0.2), (0.001, 0.7)])
@pytest.mark.parametrize("source", ["the demo picture", "random numbers"])
def test_decoder_and_nms_find_python_s_boxes(run_node, tmp_path, source, score, iou):
    predictor = load("animals-small", threads=1)
    metadata = predictor.metadata
    letterbox = predictor.prepare(DEMO_PICTURE).letterbox
    levels = raw_outputs(predictor, DEMO_PICTURE)
    if source == "random numbers":
        rng = np.random.default_rng(1)
        spread = LevelLogits(1.0, 3.0, 2.0)
        levels = [
            LevelLogits(
                *(
                    rng.normal(-(k == 1) * 4, s, part.shape).astype(np.float32)
                    for k, (part, s) in enumerate(zip(level, spread, strict=True))
                )
            )
            for level in levels
        ]
    decoded = decode_picture(levels, 0, metadata, score, iou)
    jobs = []
    for n, level in enumerate(levels):
        names = {part: f"{n}.{part}" for part in LevelLogits._fields}
        for part, name in names.items():
            (tmp_path / name).write_bytes(getattr(level, part)[0].tobytes())
        jobs.append({**names, "height": level.objectness.shape[2], "width": level.objectness.shape[3]})
    (found,) = run_node(
        {
            "action": "decode",
            "levels": jobs,
            "metadata": dataclasses.asdict(metadata),
            "imageSize": letterbox.image_size,
            "score": score,
            "iou": iou,
        }
    )
    assert len(found) == len(decoded.scores) > 0
    assert [one["classId"] for one in found] == decoded.class_ids.tolist()
    np.testing.assert_allclose([one["score"] for one in found], decoded.scores, atol=1e-5)
    np.testing.assert_allclose([one["box"] for one in found], letterbox.to_image(decoded.boxes), atol=0.5)


def raw_outputs(predictor, picture):
    prepared: Prepared = predictor.prepare(picture)
    return predictor._backend.run(prepared.image[None])


def test_the_page_reads_the_metadata_and_refuses_what_python_refuses(run_node, tmp_path, tiny_model, tiny_metadata):
    content = tiny_model.read_bytes()
    (tmp_path / "good.onnx").write_bytes(content)
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    (tmp_path / "changed.onnx").write_bytes(content.replace(b"images", b"imagis"))
    (tmp_path / "text.onnx").write_bytes(b"This is text.\n" * 50)
    (tmp_path / "empty.onnx").write_bytes(b"")
    names = ("good", "cut", "changed", "text", "empty")
    good, cut, changed, text, empty = run_node(*({"action": "metadata", "file": f"{name}.onnx"} for name in names))
    assert good == json.loads(tiny_metadata.to_json())
    assert "changed after" in changed
    assert cut == text == "This is no ONNX file, or it is cut."
    assert "no pocketdet metadata" in empty


@pytest.mark.parametrize("name", ["animals-small"])
def test_widened_weights_compute_the_same(run_node, tmp_path, name):
    onnx = pytest.importorskip("onnx")
    shutil.copy(ASSETS / f"{name}.onnx", tmp_path / "model.onnx")
    run_node({"action": "widen", "file": "model.onnx", "out": "wide.onnx"})
    types = [
        {weight.data_type for weight in onnx.load(tmp_path / file).graph.initializer}
        for file in ("model.onnx", "wide.onnx")
    ]
    assert onnx.TensorProto.INT16 in types[0]
    assert onnx.TensorProto.INT16 not in types[1]
    images = load(name, threads=1).prepare(DEMO_PICTURE).image[None]
    ours, theirs = (
        onnxruntime.InferenceSession(tmp_path / file, providers=["CPUExecutionProvider"]).run(None, {"images": images})
        for file in ("model.onnx", "wide.onnx")
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
