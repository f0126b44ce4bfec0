import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError
from pocketdet.models import (
    build_backbone,
    build_classifier,
    build_detector,
    build_from_metadata,
    load_start_weights,
    read_start_weights_info,
    save_detector,
)

WEIGHTS = Path(__file__).resolve().parents[2] / "../shared/weights"
needs_weights = pytest.mark.skipif(not WEIGHTS.exists(), reason="the start weights are not beside the repository")
CATS = {281, 282, 285}  # tabby, tiger cat, Egyptian cat
V1 = "mobilenet_v1_1.0_imagenet"
V2_FEATURES = "mobilenet_v2_1.0_imagenet_features"
FILES = {
    V1: "mobilenet_v1",
    V2_FEATURES: "mobilenet_v2",
    "mobilenet_v2_1.0_imagenet_same": "mobilenet_v2",
    "mobilenet_v3_large_warmstart": "mobilenet_v3_large",
    "mobilenet_v3_small_imagenet": "mobilenet_v3_small",
}


def file(name):
    return WEIGHTS / f"{name}.safetensors"


@pytest.fixture(scope="module")
def chelsea():
    """scikit-image's cat, cropped as ImageNet is evaluated: the middle 87.5 %."""
    skimage_data = pytest.importorskip("skimage.data")
    picture = Image.fromarray(skimage_data.chelsea())
    side = round(0.875 * picture.height)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255


def classify(network, info, image):
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (info.mean, info.std))
    with torch.inference_mode():
        return int(network.eval()((image - mean) / std).argmax())


@needs_weights
@pytest.mark.parametrize("name", [name for name in FILES if name != V2_FEATURES])
def test_a_file_with_a_head_loads_whole_and_sees_a_cat(name, chelsea):
    info = read_start_weights_info(file(name))
    network = build_classifier(FILES[name], padding=info.padding)
    report = load_start_weights(network, file(name))
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert classify(network, info, chelsea) in (CATS if name != V1 else {281, 282})


@needs_weights
@pytest.mark.parametrize(("name", "padding"), [(n, "symmetric" if n == V2_FEATURES else "same") for n in FILES])
def test_a_file_fills_the_whole_backbone_of_a_detector_and_says_how_it_was_trained(name, padding):
    detector = build_detector(FILES[name], 3, neck_width=0.125, padding=padding)
    report = load_start_weights(detector, file(name))
    assert report.padding == padding
    assert report.mean == ((0.485, 0.456, 0.406) if name == V2_FEATURES else (0.5, 0.5, 0.5))
    assert {key for key in report.missing if key.startswith("backbone.")} == set()
    assert report.mismatched == ()
    assert "not in the file: all of head, all of neck" in report.to_text()


@needs_weights
def test_the_features_of_mobilenet_v2_tell_two_crops_of_a_cat_from_an_astronaut(chelsea):
    skimage_data = pytest.importorskip("skimage.data")
    backbone = build_backbone("mobilenet_v2").eval()
    load_start_weights(backbone, file(V2_FEATURES))
    person = Image.fromarray(skimage_data.astronaut()).resize((224, 224))
    images = [chelsea, chelsea.flip(3), torch.from_numpy(np.array(person)).permute(2, 0, 1)[None] / 255]
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in read_start_weights_info(file(V2_FEATURES))[1:3])
    with torch.inference_mode():
        cat, mirrored, astronaut = (
            nn.functional.normalize(backbone((image - mean) / std)[2].mean(dim=(2, 3))) for image in images
        )
    assert (cat * mirrored).sum() > (cat * astronaut).sum() + 0.2


def test_torchvisions_state_dict_loads_as_a_pth_file(tmp_path):
    theirs = torchvision.models.mobilenet_v3_small(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "v3.pth")
    ours = build_classifier("mobilenet_v3_small").eval()
    report = load_start_weights(ours, tmp_path / "v3.pth")
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert (report.padding, report.mean) == ("symmetric", (0.485, 0.456, 0.406))
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_mobilenet_v1_computes_what_timm_computes(tmp_path, suffix):
    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv1_100").eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.1, 1.5)  # small enough to tell timm's eps from ours
    path = tmp_path / f"v1.{suffix}"
    torch.save(theirs.state_dict(), path) if suffix == "pth" else save_file(theirs.state_dict(), path)
    ours = build_classifier("mobilenet_v1").eval()
    report = load_start_weights(ours, path)
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert (report.padding, report.mean, report.std) == ("symmetric", (0.5,) * 3, (0.5,) * 3)
    assert read_start_weights_info(path) == (report.padding, report.mean, report.std, report.detector)
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "ours", "stages", "says_how"),
    [
        ("mobilenetv2_050", ("mobilenet_v2", 0.5), (2, 4, 6), False),
        ("mobilenetv3_small_100", ("mobilenet_v3_small", 1.0), (1, 3, 4), False),
        ("mobilenetv3_large_100", ("mobilenet_v3_large", 1.0), (2, 4, 5), True),
        ("tf_mobilenetv3_small_100", ("mobilenet_v3_small", 1.0), (1, 3, 4), True),
        ("tf_mobilenetv3_large_minimal_100", ("mobilenet_v3_large_minimalistic", 1.0), (2, 4, 5), True),
    ],
)
def test_a_backbone_computes_what_timm_computes(tmp_path, architecture, ours, stages, says_how):
    torch.manual_seed(0)
    model = timm.create_model(architecture).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    if says_how:  # as timm's hub has it beside the weights
        config = {"architecture": architecture, "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
        (tmp_path / "config.json").write_text(json.dumps(config))
    info = read_start_weights_info(tmp_path / "model.safetensors")
    mean_and_std = ((0.5,) * 3, (0.25,) * 3) if says_how else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert info[:3] == ("same" if architecture.startswith("tf_") else "symmetric", *mean_and_std)
    backbone = build_backbone(*ours, info.padding).eval()
    report = load_start_weights(backbone, tmp_path / "model.safetensors")
    assert (report.missing, report.mismatched) == ((), ())
    images = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        levels, x = iter(backbone(images)), model.bn1(model.conv_stem(images))
        for number, stage in enumerate(model.blocks):
            x = stage(x)
            if number in stages:
                torch.testing.assert_close(next(levels), x, rtol=1e-4, atol=1e-4)
    assert next(levels, None) is None


@pytest.fixture
def animals(tmp_path):
    metadata = ModelMetadata(
        "mobilenet_v3_small", 0.5, 0.25, "same", ("cat", "dog"), (64, 64), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    detector = build_from_metadata(metadata)
    save_detector(tmp_path / "animals.safetensors", detector, metadata, half=True)
    return tmp_path / "animals.safetensors", detector


def test_another_class_list_keeps_all_but_the_class_outputs(animals):
    path, old = animals
    new = build_detector("mobilenet_v3_small", 5, 0.5, 0.25, "same")
    report = load_start_weights(new, path)
    outputs = {f"head.levels.{level}.classes.{kind}" for level in range(3) for kind in ("weight", "bias")}
    assert set(report.mismatched) == outputs
    assert (report.missing, report.unexpected) == ((), ())
    assert (report.padding, report.mean) == ("same", (0.5,) * 3)
    assert "head.levels.0.classes.weight" in report.to_text()
    torch.testing.assert_close(new.neck.reduce_p5[0].weight, old.neck.reduce_p5[0].weight, rtol=1e-3, atol=1e-4)


def test_a_detectors_backbone_fills_a_backbone(animals):
    path, old = animals
    backbone = build_backbone("mobilenet_v3_small", 0.5, "same")
    report = load_start_weights(backbone, path)
    assert (report.missing, report.mismatched) == ((), ())
    assert {key.partition(".")[0] for key in report.unexpected} == {"neck", "head"}
    torch.testing.assert_close(backbone.features[0][0].weight, old.backbone.features[0][0].weight, rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_named_key_by_key_and_left_alone(tmp_path):
    state = build_backbone("mobilenet_v2", 0.25).state_dict()
    del state["features.3.conv.0.0.weight"]
    state["features.0.0.weight"] = torch.zeros(16, 3, 3, 3)
    state["features.99.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "odd.safetensors")
    backbone = build_backbone("mobilenet_v2", 0.25)
    stem = backbone.features[0][0].weight.clone()
    report = load_start_weights(backbone, tmp_path / "odd.safetensors")
    assert report.missing == ("features.3.conv.0.0.weight",)
    assert report.mismatched == ("features.0.0.weight",)
    assert report.unexpected == ("features.99.weight",)
    assert torch.equal(backbone.features[0][0].weight, stem)
    assert all(key in report.to_text() for key in (*report.missing, *report.mismatched, *report.unexpected))


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"layer1.weight": torch.zeros(8, 8, 3, 3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(ModelFileError, match=r"no convolution in it fits.*layer1\.weight"):
        load_start_weights(build_backbone("mobilenet_v2", 0.25), tmp_path / "resnet.safetensors")


class Trap:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    "function", [read_start_weights_info, lambda p: load_start_weights(build_backbone("mobilenet_v2", 0.25), p)]
)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.safetensors", b"\x10\x00\x00"),
        ("empty.safetensors", b""),
        ("text.pth", b"not a checkpoint at all"),
        ("empty.pth", b""),
        ("trap.pth", Trap()),
        ("list.pth", [1, 2, 3]),
    ],
)
def test_a_damaged_or_foreign_file_is_a_clear_error_and_never_executed(tmp_path, capsys, function, name, content):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ModelFileError, match=name):
        function(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(ModelFileError, match=f"nothing.{suffix}: there is no such file"):
        read_start_weights_info(tmp_path / f"nothing.{suffix}")


def test_a_cut_pth_is_refused(tmp_path):
    path = tmp_path / "cut.pth"
    torch.save(build_backbone("mobilenet_v2", 0.25).state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="not a whole state dict"):
        load_start_weights(build_backbone("mobilenet_v2", 0.25), path)
