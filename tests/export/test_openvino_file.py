import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from pocketdet.core.metadata import ModelMetadata
from pocketdet.export import int8, onnx_file, openvino_file
from pocketdet.export.conversion import Conversion, Precision
from pocketdet.models.detector import Detector
from pocketdet.runtime.backends import open_backend

pytest.importorskip("openvino")

SMALL = ModelMetadata("mobilenet_v3_small", 0.35, 0.25, "same", ("cat", "cow"), (64, 96))
PICTURES = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), np.uint8)


@pytest.fixture(scope="module")
def detector(build_seasoned: Callable[[ModelMetadata], Detector]) -> Iterator[Detector]:
    """Torch's exporter takes its time; it runs once."""
    detector = build_seasoned(SMALL)
    graph = onnx_file.float_graph(Conversion(detector, SMALL)).SerializeToString()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "float_graph", lambda conversion: onnx.load_from_string(graph))
        patch.setattr(int8, "MAX_ERROR", np.inf)  # no search
        yield detector


@pytest.mark.parametrize(
    ("precision", "is_dynamic"), [("float32", False), ("float32", True), ("half", False), ("int8", False)]
)
def test_a_shortened_file_computes_the_same_bits(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: Precision, is_dynamic: bool
):
    conversion = Conversion(detector, SMALL, precision, PICTURES, is_dynamic)
    long, short = tmp_path / "long.xml", tmp_path / "short.xml"
    with monkeypatch.context() as patch:
        patch.setattr(openvino_file, "_shorten", lambda path: None)
        openvino_file.write(conversion, long)
    for suffix in (".xml", ".bin"):
        shutil.copy(long.with_suffix(suffix), short.with_suffix(suffix))
    openvino_file._shorten(short)
    openvino_file.update_metadata(short, conversion.metadata)
    assert short.stat().st_size < 0.6 * long.stat().st_size
    ours, theirs = (open_backend(path, threads=1).run(PICTURES) for path in (short, long))
    for level, other in zip(ours, theirs, strict=True):
        for part, same in zip(level, other, strict=True):
            np.testing.assert_array_equal(part, same)


def test_equal_constants_are_there_once(detector: Detector, tmp_path: Path):
    openvino_file.write(Conversion(detector, SMALL), tmp_path / "m.xml")
    contents = re.findall(r'type="Const" version="opset1">(.*?)</layer>', (tmp_path / "m.xml").read_text())
    assert 200 < len(contents) == len(set(contents))
