import dataclasses
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pocketdet.core.decode import LevelLogits
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError
from pocketdet.models import TorchBackend, build_from_metadata, load_detector, save_detector

METADATA = ModelMetadata(
    "mobilenet_v3_small",
    0.25,
    0.125,
    "same",
    ("cat", "dog"),
    (64, 96),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    metrics={"AP50": 0.5},
)


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return build_from_metadata(METADATA).eval()


@pytest.fixture
def checkpoint(tmp_path, detector):
    path = tmp_path / "detector.safetensors"
    save_detector(path, detector, METADATA)
    return path


def test_a_detector_comes_back_bit_for_bit(checkpoint, detector):
    loaded, metadata = load_detector(checkpoint)
    assert metadata == METADATA
    assert not loaded.training
    for (key, ours), theirs in zip(detector.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key


def test_a_half_file_stores_convolutions_as_float16_and_loads_as_float32(tmp_path, checkpoint, detector):
    half = tmp_path / "half.safetensors"
    save_detector(half, detector, METADATA, half=True)
    loaded, _ = load_detector(half)
    stored = load_file(half)
    assert {tensor.dtype for tensor in stored.values() if tensor.dim() == 4} == {torch.float16}
    assert {tensor.dtype for tensor in stored.values() if tensor.dim() == 1} == {torch.float32}
    assert half.stat().st_size < 0.75 * checkpoint.stat().st_size
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    for ours, theirs in zip(detector.parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_the_same_detector_gives_the_same_file(tmp_path, checkpoint, detector):
    save_detector(tmp_path / "again.safetensors", detector, METADATA)
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()


@pytest.mark.parametrize("position", [-1, -5000, 12000])
def test_a_changed_byte_is_refused(checkpoint, position):
    content = bytearray(checkpoint.read_bytes())
    assert len(content) > 20000
    content[position] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"detector\.safetensors"):
        load_detector(checkpoint)


def test_changed_metadata_are_refused(checkpoint):
    content = checkpoint.read_bytes()
    assert b"cat" in content
    checkpoint.write_bytes(content.replace(b"cat", b"cow"))
    with pytest.raises(ModelFileError, match="was changed after it was saved"):
        load_detector(checkpoint)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_file_is_refused(checkpoint, kept):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ModelFileError, match=r"detector\.safetensors: not a whole safetensors file"):
        load_detector(checkpoint)


def test_a_pickle_is_refused_and_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"weights": Trap()}, tmp_path / "trap.safetensors")
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        load_detector(tmp_path / "trap.safetensors")
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"nowhere\.safetensors: there is no such file"):
        load_detector(tmp_path / "nowhere.safetensors")


def test_tensors_of_somebody_else_are_no_detector(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="holds no pocketdet detector"):
        load_detector(tmp_path / "other.safetensors")


def test_metadata_of_another_network_are_refused(tmp_path, detector):
    path = tmp_path / "mixed.safetensors"
    save_detector(path, detector, dataclasses.replace(METADATA, class_names=("cat", "dog", "cow")))
    with pytest.raises(ModelFileError, match=r"(?s)two networks.*classes"):
        load_detector(path)


def test_a_failed_save_leaves_the_old_file(checkpoint, detector, monkeypatch):
    before = checkpoint.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        save_detector(checkpoint, detector, METADATA)
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_the_backend_gives_the_detectors_raw_outputs_in_numpy(detector):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    with torch.inference_mode():
        expected = detector(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() / 255)
    levels = TorchBackend(detector.train(), METADATA).run(images)
    assert len(levels) == 3
    for level, output in zip(levels, expected, strict=True):
        assert isinstance(level, LevelLogits)
        for ours, theirs in zip(level, output, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)
