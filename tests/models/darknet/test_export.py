"""``pocketdet.export.darknet_file``; here, beside the configurations and the oracle that it needs."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ExportError, SettingsError
from pocketdet.export import export
from pocketdet.models import build_from_metadata, load_detector, save_detector
from pocketdet.models.darknet.importing import describe_darknet, import_darknet
from pocketdet.models.detector import build_darknet, describe_levels

SMALL = ModelMetadata("mobilenet_v2", 0.35, 0.125, "same", ("cat", "sea dog"), (64, 96), licence="CC0")
NETWORKS = {
    "mobilenet_v2": {},
    "cspdarknet53_tiny": {"backbone": "cspdarknet53_tiny", "neck_activation": "leaky", "neck_convolution": "plain"},
}  # fmt: skip


def checkpoint(tmp_path, metadata):
    """A detector of which every number counts, in a file."""
    torch.manual_seed(0)
    metadata = describe_levels(metadata)
    detector = build_from_metadata(metadata)
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            nn.init.uniform_(layer.weight, 0.5, 1.0)
            nn.init.normal_(layer.bias, 0.3, 0.1)
    for head in detector.head.levels:
        for output in (head.boxes, head.objectness, head.classes):
            nn.init.normal_(output.weight, 0, 0.1)
    with torch.no_grad():
        detector.train()(torch.rand(2, 3, *metadata.input_size))
    save_detector(tmp_path / "a.safetensors", detector, metadata)
    return tmp_path / "a.safetensors"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Of a network its checkpoint and the report of its export; each is exported once, which takes seconds."""

    @functools.cache
    def export_it(name):
        source = checkpoint(tmp_path_factory.mktemp("exported"), dataclasses.replace(SMALL, **NETWORKS[name]))
        return source, export(source, format="darknet")

    return export_it


@pytest.mark.parametrize("name", NETWORKS)
def test_the_files_compute_what_the_checkpoint_computes(exported, name):
    source, report = exported(name)
    folder = source.parent
    assert [file.name for file in report.files] == ["a.cfg", "a.names", "a.weights"]
    assert report.gate.max_output_difference < 1e-3
    detector, metadata = load_detector(source)
    again = import_darknet(folder / "a.cfg", folder / "a.weights", ())
    for fact in ("class_names", "input_size", "anchors", "strides", "scale_xy", "licence", "padding_colour"):
        assert getattr(again.metadata, fact) == getattr(metadata, fact), fact
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(detector(images), again.detector(images), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert (folder / "a.names").read_text() == "cat\nsea dog\n"


def test_a_network_of_darknets_keeps_its_configuration(tmp_path, cfgs):
    text = cfgs.yolov4_tiny(80, 0.125, 96) + "# the end\n"
    detector = build_darknet(text, num_classes=3)
    metadata = describe_darknet(detector, ("a", "b", "c"), (64, 64))
    metadata = dataclasses.replace(metadata, anchors=(((1.5, 2), (3, 4), (5, 6)), metadata.anchors[1]))
    save_detector(tmp_path / "a.safetensors", detector, metadata)
    export(tmp_path / "a.safetensors", tmp_path / "out" / "b.cfg", format="darknet")
    again = import_darknet(tmp_path / "out" / "b.cfg", tmp_path / "out" / "b.weights", ("d", "e", "f"))
    assert (again.metadata.class_names, again.metadata.anchors) == (("d", "e", "f"), metadata.anchors)
    assert again.metadata.input_size == (64, 64)
    for (key, ours), theirs in zip(detector.state_dict().items(), again.detector.state_dict().values(), strict=True):
        assert key.endswith("num_batches_tracked") or torch.equal(ours, theirs), key
    assert "stopbackward" not in (tmp_path / "out" / "b.cfg").read_text()


def test_opencv_runs_the_files(exported, ask_opencv):
    folder = exported("cspdarknet53_tiny")[0].parent
    detector = import_darknet(folder / "a.cfg", folder / "a.weights", ()).detector
    image = np.random.default_rng(0).random((1, 3, 64, 96), np.float32)
    answer = ask_opencv(folder, {"a": ((folder / "a.cfg").read_text(), detector, image)})["a"]
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-6  # OpenCV's
    with torch.inference_mode():
        outputs = detector(torch.from_numpy(image))
    for number, level in enumerate(outputs):
        raw = torch.cat([part.unflatten(1, (3, -1)) for part in level], dim=2).flatten(1, 2)
        np.testing.assert_allclose(raw.numpy(), answer[f"raw{number}"], rtol=0, atol=1e-3)


def test_a_network_with_layers_that_darknet_lacks_is_refused(tmp_path):
    source = checkpoint(tmp_path, dataclasses.replace(SMALL, backbone="mobilenet_v3_small"))
    with pytest.raises(ExportError, match=r"darknet has no layer for hard.*MobileNet V1, V2 and V3 minimalistic"):
        export(source, format="darknet")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_darknet_knows_no_half(tmp_path):
    source = checkpoint(tmp_path, SMALL)
    with pytest.raises(SettingsError, match="darknet cannot be written as half; it can as float32"):
        export(source, format="darknet", precision="half")
