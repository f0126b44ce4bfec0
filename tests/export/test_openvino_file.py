import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from pocketdet.export import onnx_file, openvino_file
from pocketdet.export.conversion import Conversion
from pocketdet.loading import ASSETS
from pocketdet.models.checkpoint import load_detector
from pocketdet.runtime.backends import open_backend

pytest.importorskip("openvino")

MODEL = ASSETS / "animals-small.onnx"
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 320, 320, 3), np.uint8)


@pytest.mark.parametrize("is_dynamic", [False, True])
@pytest.mark.parametrize("precision", ["float32", "half"])
def test_a_shortened_file_computes_the_same_bits(monkeypatch, tmp_path: Path, precision: str, is_dynamic: bool):
    monkeypatch.setattr(onnx_file, "float_graph", lambda conversion: onnx.load(MODEL))
    conversion = Conversion(*load_detector(MODEL), precision, is_dynamic=is_dynamic)
    short, long = tmp_path / "short.xml", tmp_path / "long.xml"
    openvino_file.write(conversion, short)
    monkeypatch.setattr(openvino_file, "_shorten", lambda path: None)
    openvino_file.write(conversion, long)
    assert short.stat().st_size < 0.6 * long.stat().st_size
    ours, theirs = (open_backend(path, threads=1).run(PICTURES) for path in (short, long))
    for level, other in zip(ours, theirs, strict=True):
        for part, same in zip(level, other, strict=True):
            np.testing.assert_array_equal(part, same)


def test_equal_constants_are_there_once(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(onnx_file, "float_graph", lambda conversion: onnx.load(MODEL))
    openvino_file.write(Conversion(*load_detector(MODEL)), tmp_path / "m.xml")
    contents = re.findall(r'type="Const" version="opset1">(.*?)</layer>', (tmp_path / "m.xml").read_text())
    assert 200 < len(contents) == len(set(contents))
