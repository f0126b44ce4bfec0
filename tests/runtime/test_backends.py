import dataclasses

import numpy as np
import pytest

from pocketdet.errors import ModelFileError
from pocketdet.runtime.backends import OnnxBackend, output_names


def test_an_exported_file_gives_its_metadata_back(tiny_model, tiny_metadata):
    assert OnnxBackend(tiny_model).metadata == tiny_metadata


def test_outputs_come_level_by_level_with_their_channels(tiny_model):
    levels = OnnxBackend(tiny_model, threads=1).run(np.zeros((2, 64, 64, 3), np.uint8))
    shapes = [[part.shape for part in level] for level in levels]
    assert shapes == [[(2, 12, n, n), (2, 3, n, n), (2, 6, n, n)] for n in (8, 4, 2)]


def test_outputs_are_the_logits_worked_by_hand(tiny_model, red_cell):
    levels = OnnxBackend(tiny_model).run(red_cell[None])
    assert levels[0].objectness[0, 0, 3, 2] == pytest.approx(10, abs=1e-4)
    assert levels[1].objectness[0, 0, 1, 1] == pytest.approx(20 / 4 - 10, abs=1e-4)
    np.testing.assert_allclose(levels[0].classes[0, :2, 3, 2], [20, -20], atol=1e-4)


def test_names_of_outputs_are_those_of_the_contract():
    assert output_names(2) == ["boxes_p4", "objectness_p4", "classes_p4", "boxes_p5", "objectness_p5", "classes_p5"]


def test_a_file_cut_anywhere_is_refused_in_one_line_and_silence(tiny_model, tmp_path, capfd):
    content = tiny_model.read_bytes()
    for kept in (0, 1, 7, len(content) // 4, len(content) // 2, len(content) - 1):
        cut = tmp_path / "cut.onnx"
        cut.write_bytes(content[:kept])
        with pytest.raises(ModelFileError, match=r"cut\.onnx") as caught:
            OnnxBackend(cut)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_text_file_is_refused(tmp_path, capfd):
    path = tmp_path / "words.onnx"
    path.write_text("These are words and no network. " * 50)
    with pytest.raises(ModelFileError, match="cannot read this file as a model"):
        OnnxBackend(path)
    assert capfd.readouterr() == ("", "")


def test_a_foreign_model_is_refused(tiny_writer, tmp_path):
    with pytest.raises(ModelFileError, match="no pocketdet metadata"):
        OnnxBackend(tiny_writer(tmp_path / "foreign.onnx", None))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"absent\.onnx: no such model file"):
        OnnxBackend(tmp_path / "absent.onnx")


def test_metadata_with_another_number_of_classes_is_refused(tiny_writer, tiny_metadata, tmp_path):
    changed = dataclasses.replace(tiny_metadata, class_names=("red", "blue", "green"))
    with pytest.raises(ModelFileError, match=r"'classes_p3' has the shape .* ask for 9 channels"):
        OnnxBackend(tiny_writer(tmp_path / "changed.onnx", changed))


def test_metadata_that_are_no_text_are_refused_in_silence(tiny_model, tmp_path, capfd):
    path = tmp_path / "flipped.onnx"
    path.write_bytes(tiny_model.read_bytes().replace(b"neck_width", b"neck_\xf7idth"))
    with pytest.raises(ModelFileError, match=r"flipped\.onnx: ONNX Runtime cannot read"):
        OnnxBackend(path)
    assert capfd.readouterr() == ("", "")


def test_pixels_of_another_size_than_the_network_s_are_refused(tiny_model, capfd):
    with pytest.raises(ModelFileError, match=r"cannot be run on \(1, 32, 64, 3\) pixels"):
        OnnxBackend(tiny_model).run(np.zeros((1, 32, 64, 3), np.uint8))
    assert capfd.readouterr() == ("", "")
