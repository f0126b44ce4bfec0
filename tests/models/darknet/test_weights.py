import struct

import numpy as np
import pytest
import torch

from pocketdet.errors import ModelFileError
from pocketdet.models.darknet.weights import read_weights, write_weights
from pocketdet.models.detector import build_darknet

CFG = """[net]
[convolutional]
batch_normalize=1
filters=2
activation=leaky
[convolutional]
filters=14
activation=linear
[yolo]
anchors=1,2, 3,4
classes=2
"""


@pytest.fixture
def detector():
    return build_darknet(CFG)


def write_by_hand(path, count=16 + 42 - 2, version=(0, 2, 5), seen="Q"):
    """The numbers 0, 1, 2 and so on: of layer 0 biases, scales, means, variances, weights; then of the outputs."""
    path.write_bytes(struct.pack(f"<iii{seen}", *version, 7) + np.arange(count, dtype="<f4").tobytes())
    return path


def test_numbers_go_where_darknet_has_them(tmp_path, detector):
    assert read_weights(detector, write_by_hand(tmp_path / "w.weights")) == ()
    convolution, norm, _ = detector.backbone.layers[0]
    assert [part.tolist() for part in (norm.bias, norm.weight, norm.running_mean, norm.running_var)] == [
        [0, 1], [2, 3], [4, 5], [6, 7]
    ]  # fmt: skip
    assert convolution.weight.flatten().tolist() == [8, 9, 10, 11, 12, 13]
    head = detector.head.levels[0]  # channels of an anchor: x, y, w, h, objectness, two classes
    assert head.boxes.bias.tolist() == [14, 15, 16, 17, 21, 22, 23, 24]
    assert head.objectness.bias.tolist() == [18, 25]
    assert head.classes.bias.tolist() == [19, 20, 26, 27]
    assert head.boxes.weight[:, :, 0, 0].tolist()[:2] == [[28, 29], [30, 31]]
    assert head.objectness.weight[:, :, 0, 0].tolist() == [[36, 37], [50, 51]]


def test_an_old_header_has_4_bytes_for_the_pictures_seen(tmp_path, detector):
    read_weights(detector, write_by_hand(tmp_path / "w.weights", version=(0, 1, 0), seen="I"))
    assert detector.backbone.layers[0][1].bias.tolist() == [0, 1]


def test_what_is_written_is_what_was_read(tmp_path, detector):
    source = write_by_hand(tmp_path / "w.weights")
    read_weights(detector, source)
    write_weights(detector, tmp_path / "again.weights")
    assert (tmp_path / "again.weights").read_bytes()[20:] == source.read_bytes()[20:]


def test_weights_of_a_network_come_back(tmp_path, small_cfgs, random_detector):
    for name, text in small_cfgs.items():
        detector, again = random_detector(text), build_darknet(text)
        write_weights(detector, tmp_path / name)
        assert read_weights(again, tmp_path / name) == ()
        for (key, ours), theirs in zip(detector.state_dict().items(), again.state_dict().values(), strict=True):
            assert key.endswith("num_batches_tracked") or torch.equal(ours, theirs), key


def test_a_file_that_ends_with_a_layer_leaves_the_others_as_they_are(tmp_path, detector):
    before = detector.head.levels[0].boxes.weight.clone()
    assert read_weights(detector, write_by_hand(tmp_path / "w.weights", 14)) == ("layer 1 (line 6)",)
    assert torch.equal(detector.head.levels[0].boxes.weight, before)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (15, r"ends within layer 1 \(line 6\): 15 numbers, and the network needs 56; .*its number of classes"),
        (57, "holds 57 numbers, and the network needs only 56"),
    ],
)
def test_a_file_of_another_length_is_refused(tmp_path, detector, count, message):
    with pytest.raises(ModelFileError, match=message):
        read_weights(detector, write_by_hand(tmp_path / "w.weights", count))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" * 10, struct.pack("<iiiQ", 0, 2, 5, 0) + b"abc"])
def test_a_file_of_another_kind_is_refused(tmp_path, detector, content):
    (tmp_path / "w.weights").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"w\.weights: (\d+ bytes; expected darknet|no darknet weights)"):
        read_weights(detector, tmp_path / "w.weights")


def test_a_missing_file_is_named(tmp_path, detector):
    with pytest.raises(ModelFileError, match=r"nowhere\.weights: No such file"):
        read_weights(detector, tmp_path / "nowhere.weights")
