import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from pocketdet.core.decode import decode_picture
from pocketdet.core.images import read_image
from pocketdet.core.letterbox import Letterbox
from pocketdet.loading import ASSETS
from pocketdet.runtime.backends import open_backend

PAGE = Path(__file__).parents[1] / "docs/outputs.md"


@pytest.fixture(scope="module", params=["onnx", "openvino", "ncnn"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundled detector in each format."""
    asset = ASSETS / "animals-small.onnx"
    if request.param == "onnx":
        return asset
    pytest.importorskip(request.param)
    torch_half = pytest.importorskip("pocketdet.models.checkpoint")
    onnx = pytest.importorskip("onnx")
    from pocketdet.export import onnx_file
    from pocketdet.export.conversion import Conversion
    from pocketdet.export.table import EXPORTERS

    exporter = EXPORTERS[request.param]
    path = tmp_path_factory.mktemp("page") / f"small{exporter.suffix}"
    with pytest.MonkeyPatch.context() as patch:  # torch's exporter takes its time, and has made this file
        patch.setattr(onnx_file, "float_graph", lambda conversion: onnx.load(asset))
        exporter.write(Conversion(*torch_half.load_detector(asset)), path)
    return path


@pytest.mark.parametrize("threshold", [0.3, 0.02])
def test_the_numpy_of_the_page_finds_what_pocketdet_finds(file: Path, threshold: float):
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    backend = open_backend(file, threads=1)
    picture = read_image(ASSETS / "chelsea.jpg")
    letterbox = Letterbox(picture.size, backend.metadata.input_size)
    levels = backend.run(letterbox.apply(picture.pixels, backend.metadata.padding_colour)[None])
    expected = decode_picture(levels, 0, backend.metadata, threshold, 0.5)
    outputs = [part for level in levels for part in level]
    boxes, scores, class_ids = names["decode"](outputs, dataclasses.asdict(backend.metadata), threshold)
    assert len(expected.boxes) > 0
    np.testing.assert_array_equal(class_ids, expected.class_ids)
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)
