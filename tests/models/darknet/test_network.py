import functools
import math
import shutil
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from pocketdet.core.decode import decode_picture
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError
from pocketdet.models import TorchBackend
from pocketdet.models.darknet.importing import describe_darknet
from pocketdet.models.darknet.layers import MaxPool
from pocketdet.models.darknet.network import read_shape_iou
from pocketdet.models.detector import build_darknet

OPENCV_EPS = 1e-6  # of its batch norm; darknet's kernels, and so ours, add 1e-5
SIZE = 128


class Compared(NamedTuple):
    """Of one network: what we compute of a picture, level by level as the file has them, and what OpenCV does."""

    metadata: ModelMetadata
    outputs: list
    order: list
    answer: dict


@pytest.fixture(scope="module", params=["yolov4", "yolov4_tiny", "yolov3", "mobilenet"])
def compared(request, tmp_path_factory, cfgs, random_detector, pictures, ask_opencv):
    """The published networks with all their channels, for 80 classes, on a small picture; one at a time in memory."""
    make = functools.partial(cfgs.mobilenet, activation="leaky") if request.param == "mobilenet" else None
    text = (make or getattr(cfgs, request.param))(80, 1.0, SIZE)  # leaky: OpenCV knows no relu6
    detector, image = random_detector(text), pictures(1, (SIZE, SIZE))
    folder = tmp_path_factory.mktemp("opencv")
    answer = dict(ask_opencv(folder, {"full": (text, detector, image.numpy())})["full"])
    shutil.rmtree(folder)  # up to 250 MB
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = OPENCV_EPS
    with torch.inference_mode():
        outputs = detector(image)
    levels = detector.backbone.levels
    order = sorted(range(len(levels)), key=lambda n: levels[n].layer)
    return Compared(describe_darknet(detector, [str(n) for n in range(80)]), outputs, order, answer)


def test_the_raw_outputs_of_a_published_network_are_those_of_opencv(compared):
    for number, level in enumerate(compared.order):
        anchors = compared.outputs[level].objectness.shape[1]
        raw = torch.cat([part.unflatten(1, (anchors, -1)) for part in compared.outputs[level]], dim=2).flatten(1, 2)
        assert raw.std() > 1  # as the logits of a trained network
        np.testing.assert_allclose(raw.numpy(), compared.answer[f"raw{number}"], rtol=0, atol=1e-3)


def test_the_boxes_of_a_published_network_are_those_of_opencv(compared):
    levels = [type(level)(*(part.numpy() for part in level)) for level in compared.outputs]
    rows = np.concatenate([compared.answer[f"rows{number}"] for number in range(len(levels))])
    loud = np.sort(rows[:, 5:], axis=None)[-50]
    row, class_id = np.nonzero(rows[:, 5:] >= loud)
    centre, size = rows[row, :2] * SIZE, rows[row, 2:4] * SIZE
    theirs = np.column_stack((centre - size / 2, centre + size / 2, rows[row, 5 + class_id], class_id))
    found = decode_picture(levels, 0, compared.metadata, loud - 1e-3, math.inf, max_detections=10_000)
    ours = np.column_stack((found.boxes, found.scores, found.class_ids))
    assert np.count_nonzero(found.scores > loud + 1e-3) <= len(theirs) <= len(ours) < 100
    nearest = np.abs(theirs[:, None] - ours).sum(axis=2).argmin(axis=1)
    assert len(set(nearest)) == len(theirs)
    np.testing.assert_allclose(theirs, ours[nearest], rtol=1e-3, atol=0.02)


@pytest.mark.parametrize(
    ("name", "parameters", "num_bytes"),  # bytes of the published weight files
    [
        ("yolov4", 64_363_101, 257_717_640),
        ("yolov4_tiny", 6_056_606, 24_251_276),
        ("yolov3", 61_949_149, 248_007_048),
    ],
)
def test_the_full_networks_have_the_numbers_of_the_published_files(name, parameters, num_bytes, cfgs):
    with torch.device("meta"):
        detector = build_darknet(getattr(cfgs, name)())
    assert sum(parameter.numel() for parameter in detector.parameters()) == parameters
    statistics = sum(buffer.numel() for key, buffer in detector.named_buffers() if "running" in key)
    assert 4 * (parameters + statistics) + 20 == num_bytes


def test_anchors_and_decoding_are_those_of_the_configuration(cfgs):
    v4, v3, tiny = (
        describe_darknet(build_darknet(text(2, 0.125, 64)), ("a", "b"))
        for text in (cfgs.yolov4, cfgs.yolov3, cfgs.yolov4_tiny)
    )
    assert (v4.scale_xy, v4.strides, v4.input_size) == ((1.2, 1.1, 1.05), (8, 16, 32), (64, 64))
    assert v4.anchors[2] == ((142, 110), (192, 243), (459, 401))
    assert (v3.scale_xy, v3.anchors[0]) == ((1.0, 1.0, 1.0), ((10, 13), (16, 30), (33, 23)))
    assert (tiny.scale_xy, tiny.strides) == ((1.05, 1.05), (16, 32))
    assert tiny.anchors == (((23, 27), (37, 58), (81, 82)), ((81, 82), (135, 169), (344, 319)))
    assert (v4.mean, v4.std) == ((0, 0, 0), (1, 1, 1))
    assert [read_shape_iou(m.configuration) for m in (v4, v3)] == [0.213, 1.0]


HEAD = """[convolutional]
filters=18
activation=linear
[yolo]
mask=0,1
anchors=10,20, 30,40, 50,60
classes=4
"""


def network(layers, head=HEAD):
    return f"[net]\nwidth=32\nheight=32\n{layers}\n{head}"


def run(layers, images):
    """What the head reads of a network of these layers."""
    detector = build_darknet(network(layers))
    with torch.inference_mode():
        return detector.eval().backbone(images)[0]


def test_route_takes_a_group_of_each_map():
    images = torch.rand(1, 3, 32, 32)
    layers = "[convolutional]\nfilters=4\nactivation=linear\n[upsample]\nstride=1\n"
    both = run(f"{layers}[route]\nlayers=-1,0\n", images)
    assert torch.equal(both[:, :4], both[:, 4:])
    detector = build_darknet(network(f"{layers}[route]\nlayers=-1,0\ngroups=2\ngroup_id=1\n"))
    with torch.inference_mode():
        part = detector.backbone(images)[0]
        whole = detector.backbone.layers[0](images)
    assert torch.equal(part, torch.cat((whole[:, 2:], whole[:, 2:]), dim=1))


@pytest.mark.parametrize(("size", "stride"), [(2, 1), (2, 2), (3, 2), (5, 1), (13, 1)])
@pytest.mark.parametrize("side", [9, 12])
def test_a_max_pool_sees_what_darknet_says(size, stride, side):
    x = torch.randn(1, 2, side, side)
    padding = size - 1
    first = -(padding // 2)
    cells = (side + padding - size) // stride + 1
    expected = torch.empty(1, 2, cells, cells)
    for row in range(cells):  # darknet's loop: what lies outside counts as -inf
        for column in range(cells):
            top, left = first + row * stride, first + column * stride
            window = x[:, :, max(0, top) : top + size, max(0, left) : left + size]
            expected[:, :, row, column] = window.amax(dim=(2, 3))
    assert torch.equal(MaxPool(size, stride, padding)(x), expected)


def test_squeeze_and_excitation_weighs_every_channel():
    images = torch.rand(1, 3, 32, 32)
    detector = build_darknet(
        network(
            "[convolutional]\nfilters=3\nactivation=linear\n[avgpool]\n[convolutional]\nfilters=3\nactivation=logistic\n"
            "[scale_channels]\nfrom=-3\n"
        )
    )
    with torch.inference_mode():
        found = detector.backbone(images)[0]
        x = detector.backbone.layers[0](images)
        squeeze = detector.backbone.layers[2][0]
        gate = (squeeze.weight[:, :, 0, 0] @ x.mean(dim=(2, 3))[0] + squeeze.bias).sigmoid()
    torch.testing.assert_close(found, x * gate[:, None, None])


@pytest.mark.parametrize(
    ("name", "at_minus_1", "at_8"),
    [
        ("leaky", -0.1, 8),
        ("mish", -0.303401, 7.999999),
        ("relu", 0, 8),
        ("relu6", 0, 6),
        ("swish", -0.268941, 7.997317),
        ("logistic", 0.268941, 0.999665),
        ("hard-swish", -1 / 3, 8),
        ("hswish", -1 / 3, 8),
        ("hard_sigmoid", 1 / 3, 1),
        ("linear", -1, 8),
    ],
)
def test_an_activation_has_its_values(name, at_minus_1, at_8):
    layer = build_darknet(network(f"[convolutional]\nfilters=1\nactivation={name}")).backbone.layers[0]
    found = nn.Sequential(*list(layer)[1:])(torch.tensor([-1.0, 8.0]))
    assert found.tolist() == pytest.approx([at_minus_1, at_8], abs=1e-5)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("[gru]\n", r"cfg:5: \[gru\] is no layer that is supported; supported are convolutional"),
        ("[convolutional]\nfilters=2\nactivation=gelu\n", r'cfg:7: \[convolutional\] activation "gelu".*leaky, mish'),
        ("[convolutional]\nfilters=two\n", r'cfg:6: \[convolutional\] "filters" is "two"; expected a whole number'),
        ("[convolutional]\nfilters=4\ngroups=2\n", "cfg:5: .*2 groups, which do not divide 3 channels"),
        ("[convolutional]\nfilters=4\nantialiasing=1\n", 'cfg:7: .*option "antialiasing" is not supported'),
        ("[route]\nlayers=3\n", "cfg:6: .*reads layer 3, which is not before it; this is layer 0"),
        ("[maxpool]\nsize=2\nstride=2\n[route]\nlayers=-1, -2\n", "cfg:9: .*reads layer -2, which is not before it"),
        (
            "[dropout]\n[maxpool]\nsize=2\nstride=2\n[route]\nlayers=-1,-2\n",
            r"maps of different sizes: .*stride 2.*stride 1",
        ),
        ("[dropout]\n[maxpool]\nsize=2\nstride=2\n[shortcut]\nfrom=-2\n", "cfg:10: .*adds maps of different sizes"),
        ("[dropout]\n[scale_channels]\nfrom=-1\n", "cfg:7: .*cannot weigh"),
        ("[shortcut]\n", r'cfg:5: \[shortcut\] has no "from"; expected from=whole numbers'),
        ("[upsample]\nstride=2\n", "cfg:5: .*at least so many times smaller"),
        ("nonsense\n", 'cfg:5: "nonsense"; expected'),
    ],
)
def test_what_cannot_be_read_names_its_line(layers, message):
    with pytest.raises(ModelFileError, match=message):
        build_darknet("[net]\nwidth=32\nheight=32\n\n" + layers + HEAD)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("classes=4", "classes=4\nnew_coords=1", r"cfg:12: \[yolo\] with new_coords=1 .*not supported"),
        (
            "classes=4",
            "classes=5",
            r"cfg:6: \[convolutional\] has 18 filters; 2 anchors and 5 classes in line 8 ask for 20",
        ),
        ("linear", "leaky", r"cfg:7: \[convolutional\] stands before \[yolo\]; expected activation=linear"),
        ("mask=0,1", "mask=0,3", r"cfg:9: \[yolo\] has 3 anchors .*mask \(0, 3\)"),
        ("[yolo]", "[region]", r"cfg:8: \[region\] is no layer that is supported"),
        ("activation", "batch_normalize=1\nactivation", "without batch norm"),
    ],
)
def test_a_head_that_cannot_be_read_names_its_line(old, new, message):
    with pytest.raises(ModelFileError, match=message):
        build_darknet(network("", HEAD.replace(old, new, 1)))


def test_a_configuration_without_a_detector_is_refused():
    with pytest.raises(ModelFileError, match=r"has no \[yolo\] layer"):
        build_darknet("[net]\n[convolutional]\nactivation=linear\n")
    with pytest.raises(ModelFileError, match=r"the first section must be \[net\]"):
        build_darknet("[convolutional]\n")


def test_a_size_that_does_not_fit_the_strides_is_refused():
    detector = build_darknet(network("[convolutional]\nfilters=2\nsize=3\nactivation=linear\n"))
    with pytest.raises(ModelFileError, match=r"the grids .*\(30, 30\).*without padding"):
        describe_darknet(detector, "abcd")


def test_the_backend_runs_it_like_any_detector(small_cfgs, random_detector):
    detector = random_detector(small_cfgs["yolov4_tiny"])
    metadata = describe_darknet(detector, "abc")
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    levels = TorchBackend(detector, metadata).run(images)
    assert [level.boxes.shape for level in levels] == [(2, 12, 6, 6), (2, 12, 3, 3)]
