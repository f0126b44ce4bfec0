from pathlib import Path

import numpy as np
import pytest

from pocketdet.core.seal import is_intact
from pocketdet.errors import ModelFileError
from pocketdet.runtime.backends import OnnxBackend


def test_a_sealed_file_is_intact(tiny_model: Path) -> None:
    assert is_intact(tiny_model.read_bytes())


def test_any_flipped_byte_breaks_the_seal(tiny_model: Path) -> None:
    content = tiny_model.read_bytes()
    for place in np.random.default_rng(0).integers(len(content), size=300):
        changed = bytearray(content)
        changed[place] ^= 0x10
        assert not is_intact(bytes(changed))


def test_a_file_with_one_changed_weight_is_refused_by_name(tiny_model: Path, tmp_path: Path) -> None:
    content = bytearray(tiny_model.read_bytes())
    weight = np.float32(20 / 255).tobytes()
    place = content.index(weight)
    content[place : place + 4] = np.float32(21 / 255).tobytes()
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"changed\.onnx: the file was changed"):
        OnnxBackend(changed)
