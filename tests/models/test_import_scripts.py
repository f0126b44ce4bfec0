"""Checkpoints of the MobileNet-YOLOv4 scripts against a forward pass written here from their description."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pocketdet import cli
from pocketdet.core.decode import decode_picture
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import ModelFileError, SettingsError
from pocketdet.models import (
    TorchBackend,
    build_backbone,
    build_from_metadata,
    load_detector,
    load_start_weights,
    save_detector,
)
from pocketdet.models.import_scripts import import_scripts

KEYS = Path(__file__).resolve().parents[2] / "../shared/formats/mobilenet_yolov4_pth_keys.json"
NAMES = tuple(f"class {number}" for number in range(20))
NETWORKS = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large")
ANCHORS = [(12, 16), (19, 36), (40, 28), (36, 75), (76, 55), (72, 146), (142, 110), (192, 243), (459, 401)]
SCORE = 0.3


class Script:
    """Their network as functions of tensors by name; a name that is new gets seeded random values."""

    def __init__(self, network, classes=20, seed=0):
        self.network, self.classes, self.state = network, classes, {}
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, images):
        """The fused outputs of P5, P4, P3."""
        p3, p4, p5 = getattr(self, self.network)(images)
        p5 = self.three(p5, "conv1", 512)
        p5 = torch.cat([*(F.max_pool2d(p5, k, 1, k // 2) for k in (13, 9, 5)), p5], 1)
        p5 = self.three(p5, "conv2", 512)
        p4 = torch.cat((self.named(p4, "conv_for_P4", 256), self.up(p5, "upsample1", 256)), 1)
        p4 = self.five(p4, "make_five_conv1", 256)
        p3 = torch.cat((self.named(p3, "conv_for_P3", 128), self.up(p4, "upsample2", 128)), 1)
        p3 = self.five(p3, "make_five_conv2", 128)
        p4 = torch.cat((self.separable(p3, "down_sample1", 256, 2), p4), 1)
        p4 = self.five(p4, "make_five_conv3", 256)
        p5 = torch.cat((self.separable(p4, "down_sample2", 512, 2), p5), 1)
        p5 = self.five(p5, "make_five_conv4", 512)
        levels = ((p5, "yolo_head1", 1024), (p4, "yolo_head2", 512), (p3, "yolo_head3", 256))
        return [self.output(self.separable(x, f"{name}.0", wide, 1), f"{name}.1") for x, name, wide in levels]

    def mobilenet_v1(self, x):
        taps, wide = [], [[64, 128, 128, 256, 256], [512] * 6, [1024] * 2]
        x = self.layer(x, "backbone.model.stage1.0.0", "backbone.model.stage1.0.1", 32, 3, 2).clamp(0, 6)
        for stage, channels in enumerate(wide, start=1):
            for number, out in enumerate(channels, start=1 if stage == 1 else 0):
                stride = 2 if (stage == 1 and number in (2, 4)) or (stage > 1 and number == 0) else 1
                x = self.separable(x, f"backbone.model.stage{stage}.{number}", out, stride)
            taps.append(x)
        self.tensor("backbone.model.fc.weight", (1000, 1024))
        self.tensor("backbone.model.fc.bias", (1000,))
        return taps

    def mobilenet_v2(self, x):
        taps, block, base = [], 0, "backbone.model.features"
        x = self.layer(x, f"{base}.0.0", f"{base}.0.1", 32, 3, 2).clamp(0, 6)
        rows = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        for expansion, out, repeats, first_stride in rows:
            for repeat in range(repeats):
                block += 1
                name, y, stride, number = f"{base}.{block}.conv", x, first_stride if repeat == 0 else 1, 0
                wide = x.shape[1] * expansion
                if expansion > 1:
                    y = self.layer(y, f"{name}.0.0", f"{name}.0.1", wide, 1).clamp(0, 6)
                    number = 1
                y = self.layer(y, f"{name}.{number}.0", f"{name}.{number}.1", wide, 3, stride, wide).clamp(0, 6)
                y = self.layer(y, f"{name}.{number + 1}", f"{name}.{number + 2}", out, 1)
                x = x + y if stride == 1 and x.shape[1] == out else y
                taps += [x] if block in (6, 13, 17) else []
        self.layer(x, f"{base}.18.0", f"{base}.18.1", 1280, 1)
        self.tensor("backbone.model.classifier.1.weight", (1000, 1280))
        self.tensor("backbone.model.classifier.1.bias", (1000,))
        return taps

    def mobilenet_v3_large(self, x):
        taps, base, no, se = [], "backbone.model.features", False, True
        x = F.hardswish(self.layer(x, f"{base}.0.0", f"{base}.0.1", 16, 3, 2))
        rows = [(3, 16, 16, no, F.relu, 1), (3, 64, 24, no, F.relu, 2), (3, 72, 24, no, F.relu, 1)]
        rows += [(5, 72, 40, se, F.relu, 2), (5, 120, 40, se, F.relu, 1), (5, 120, 40, se, F.relu, 1)]
        rows += [(3, 240, 80, no, F.hardswish, 2), (3, 200, 80, no, F.hardswish, 1), (3, 184, 80, no, F.hardswish, 1)]
        rows += [(3, 184, 80, no, F.hardswish, 1), (3, 480, 112, se, F.hardswish, 1), (3, 672, 112, se, F.hardswish, 1)]
        rows += [
            (5, 672, 160, se, F.hardswish, 2),
            (5, 960, 160, se, F.hardswish, 1),
            (5, 960, 160, se, F.hardswish, 1),
        ]
        for block, (kernel, wide, out, has_se, activation, stride) in enumerate(rows, start=1):
            name, y = f"{base}.{block}.conv", x
            if block == 1:  # does not expand
                y = activation(self.layer(y, f"{name}.0", f"{name}.1", wide, kernel, stride, wide))
                y = self.layer(y, f"{name}.4", f"{name}.5", out, 1)
            else:
                y = activation(self.layer(y, f"{name}.0", f"{name}.1", wide, 1))
                y = self.layer(y, f"{name}.3", f"{name}.4", wide, kernel, stride, wide)
                y = activation(self.excite(y, f"{name}.5.fc") if has_se else y)
                y = self.layer(y, f"{name}.7", f"{name}.8", out, 1)
            x = x + y if stride == 1 and x.shape[1] == out else y
            taps += [x] if block in (6, 12, 15) else []
        self.layer(x, "backbone.model.conv.0", "backbone.model.conv.1", 960, 1)
        for layer, shape in (("0", (1280, 960)), ("3", (1000, 1280))):
            self.tensor(f"backbone.model.classifier.{layer}.weight", shape)
            self.tensor(f"backbone.model.classifier.{layer}.bias", shape[:1])
        return taps

    def excite(self, x, name):
        squeezed = {72: 24, 120: 32, 480: 120, 672: 168, 960: 240}[x.shape[1]]
        y = F.relu(self.linear(x.mean((2, 3)), f"{name}.0", squeezed))
        return x * (F.relu6(self.linear(y, f"{name}.2", x.shape[1]) + 3) / 6)[:, :, None, None]

    def linear(self, x, name, out):
        return x @ self.tensor(f"{name}.weight", (out, x.shape[1])).T + self.tensor(f"{name}.bias", (out,))

    def named(self, x, name, out):
        return self.layer(x, f"{name}.conv", f"{name}.bn", out, 1).clamp(0, 6)

    def up(self, x, name, out):
        return F.interpolate(self.named(x, f"{name}.upsample.0", out), scale_factor=2)

    def three(self, x, name, out):
        x = self.separable(self.named(x, f"{name}.0", out), f"{name}.1", 2 * out, 1)
        return self.named(x, f"{name}.2", out)

    def five(self, x, name, out):
        return self.named(self.separable(self.three(x, name, out), f"{name}.3", 2 * out, 1), f"{name}.4", out)

    def separable(self, x, name, out, stride):
        x = self.layer(x, f"{name}.0", f"{name}.1", x.shape[1], 3, stride, x.shape[1]).clamp(0, 6)
        return self.layer(x, f"{name}.3", f"{name}.4", out, 1).clamp(0, 6)

    def output(self, x, name):
        out = 3 * (5 + self.classes)
        return F.conv2d(x, self.tensor(f"{name}.weight", (out, x.shape[1], 1, 1)), self.tensor(f"{name}.bias", (out,)))

    def layer(self, x, name, norm, out, kernel, stride=1, groups=1):
        weight = self.tensor(f"{name}.weight", (out, x.shape[1] // groups, kernel, kernel))
        x = F.conv2d(x, weight, None, stride, kernel // 2, groups=groups)
        kinds = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, shift = (self.tensor(f"{norm}.{kind}", (out,)) for kind in kinds)
        self.state.setdefault(f"{norm}.num_batches_tracked", torch.tensor(7))
        return F.batch_norm(x, mean, var, scale, shift, eps=1e-5)

    def tensor(self, name, shape):
        if name not in self.state:
            random = torch.randn(shape, generator=self.generator)
            if len(shape) > 1:
                random *= (1.5 / random[0].numel()) ** 0.5  # more would make the network chaotic, less blind
            elif name.endswith("running_var"):
                random = 0.5 + 0.5 * random.abs()  # small enough to tell eps 1e-5 from 1e-3
            else:
                random = 0.2 * random + (1 if name.endswith(".weight") else 0)
            self.state[name] = random
        assert self.state[name].shape == shape
        return self.state[name]


@pytest.fixture(scope="module", params=NETWORKS)
def checkpoint(request, tmp_path_factory):
    """What was imported, the tensors of the file, images in 0 to 1, and the fused outputs of P5, P4, P3."""
    script, images = Script(request.param), torch.rand(2, 3, 96, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        outputs = script(images)
    path = tmp_path_factory.mktemp(request.param) / "best_epoch_weights.pth"
    torch.save(script.state, path)
    imported = import_scripts(path, NAMES, input_size=(64, 64))
    assert imported.metadata.backbone == request.param
    return imported, script.state, images, outputs


@pytest.mark.skipif(not KEYS.exists(), reason="the list of names is not beside the repository")
@pytest.mark.parametrize("network", NETWORKS)
def test_the_network_written_here_has_their_names_and_shapes(network):
    script = Script(network)
    with torch.inference_mode():
        script(torch.zeros(1, 3, 32, 32))
    theirs = {name: tuple(shape) for name, shape in json.loads(KEYS.read_text())[network].items()}
    assert {name: tuple(tensor.shape) for name, tensor in script.state.items()} == theirs


def test_raw_outputs_are_theirs(checkpoint):
    imported, _, images, theirs = checkpoint
    with torch.inference_mode():
        ours = imported.detector(images)
    for (boxes, objectness, classes), fused in zip(ours, reversed(theirs), strict=True):
        fused = fused.unflatten(1, (3, 25))  # of each anchor x, y, w, h, objectness, classes
        assert fused.std() > 0.1
        for part, expected in ((boxes, fused[:, :, :4]), (objectness, fused[:, :, 4:5]), (classes, fused[:, :, 5:])):
            torch.testing.assert_close(part, expected.flatten(1, 2), rtol=0, atol=1e-4)


def test_boxes_are_decoded_as_theirs(checkpoint):
    imported, state, _, _ = checkpoint
    image = np.random.default_rng(2).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    script = Script(imported.metadata.backbone)
    script.state = state
    with torch.inference_mode():
        outputs = script(torch.from_numpy(image).permute(0, 3, 1, 2) / 255)
    expected = []
    for fused, stride, anchors in zip(outputs, (32, 16, 8), (ANCHORS[6:], ANCHORS[3:6], ANCHORS[:3]), strict=True):
        for (width, height), raw in zip(anchors, fused.unflatten(1, (3, 25))[0], strict=True):
            for row, column in np.ndindex(*raw.shape[1:]):
                x, y, w, h, objectness, *classes = raw[:, row, column].double().tolist()
                x, y, objectness, *classes = (1 / (1 + np.exp(-v)) for v in (x, y, objectness, *classes))
                x, y, w, h = (x + column) * stride, (y + row) * stride, np.exp(w) * width, np.exp(h) * height
                box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
                expected += [(objectness * p, n, *box) for n, p in enumerate(classes) if objectness * p > SCORE]
    levels = TorchBackend(imported.detector, imported.metadata).run(image)
    found = decode_picture(levels, 0, imported.metadata, SCORE, iou_threshold=1.0, max_detections=10**6)
    assert 20 < len(expected) == len(found.scores) < 3000
    for score, class_id, *box in expected:
        same = found.class_ids == class_id
        off = np.abs(found.boxes[same] - box).max(axis=1) + 100 * np.abs(found.scores[same] - score)
        assert off.min() < 0.01


def test_only_dead_layers_are_unused(checkpoint):
    imported, *_ = checkpoint
    network, unused = imported.metadata.backbone, imported.unused
    dead = {"mobilenet_v1": {"fc"}, "mobilenet_v2": {"features.18", "classifier"}}.get(network, {"conv", "classifier"})
    found = {".".join(key.split(".")[2:4]) if "features" in key else key.split(".")[2] for key in unused}
    assert found == dead


def test_the_metadata_tell_how_it_computes_and_survive_saving(checkpoint, tmp_path):
    imported, _, images, _ = checkpoint
    save_detector(tmp_path / "imported.safetensors", imported.detector, imported.metadata)
    detector, metadata = load_detector(tmp_path / "imported.safetensors")
    assert metadata.se_before_activation == (metadata.backbone == "mobilenet_v3_large")
    assert (metadata.scale_xy, metadata.mean, metadata.std) == ((1.0,) * 3, (0.0,) * 3, (1.0,) * 3)
    assert (metadata.padding, metadata.padding_colour, metadata.input_size) == ("symmetric", (128,) * 3, (64, 64))
    assert (metadata.anchors[0][0], metadata.anchors[2][2]) == ((12, 16), (459, 401))
    assert metadata.licence == ""
    with torch.inference_mode():
        for ours, theirs in zip(detector(images), imported.detector(images), strict=True):
            for pair in zip(ours, theirs, strict=True):
                torch.testing.assert_close(*pair, rtol=0, atol=1e-5)


def test_exchanging_se_and_activation_is_noticed(tmp_path):
    script, images = Script("mobilenet_v3_large"), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        theirs = script(images)
    torch.save(script.state, tmp_path / "v3.pth")
    imported = import_scripts(tmp_path / "v3.pth", NAMES)
    papers = build_from_metadata(dataclasses.replace(imported.metadata, se_before_activation=False)).eval()
    papers.load_state_dict(imported.detector.state_dict())  # names and shapes are the same
    with torch.inference_mode():
        off = (papers(images)[2].objectness - theirs[0][:, 4::25]).abs().max()
    assert off > 0.1


def test_files_from_before_the_field_are_of_the_papers_network():
    metadata = ModelMetadata("mobilenet_v3_large", 1.0, 0.5, "same", ("cat",), (64, 64))
    values = json.loads(metadata.to_json())
    del values["se_before_activation"]
    assert ModelMetadata.from_json(json.dumps(values), "here") == metadata


def without(state, *parts):
    return {key: tensor for key, tensor in state.items() if not any(part in key for part in parts)}


def with_objects(state):
    return state | {"epoch": np.random.default_rng(0)}


def narrow(state):
    return state | {"conv1.0.conv.weight": torch.zeros(256, 320, 1, 1)}


@pytest.mark.parametrize(
    ("change", "names", "message"),
    [
        (lambda state: state, NAMES[:19], r"tells 20 classes apart, and 19 names were given"),
        (lambda state: state, (), r"and 0 names were given; name them all.*--classes"),
        (lambda state: without(state, "down_sample2.0"), NAMES, r"incomplete.*neck\.down_p4\.0\.0\.weight"),
        (lambda state: without(state, "yolo_head"), NAMES, r"no YOLOv4 on MobileNet.*its first keys are backbone"),
        (lambda state: without(state, "features"), NAMES, r"no YOLOv4 on MobileNet.*its first keys are"),
        (narrow, NAMES, r"another width.*neck\.before_pooling\.0\.0\.weight \(256, 320, 1, 1\) for \(512, 320, 1, 1\)"),
        (with_objects, NAMES, r"never executed"),
    ],
)
def test_what_is_no_such_checkpoint_is_refused_by_name(scripts_v2, tmp_path, change, names, message):
    torch.save(change(scripts_v2), tmp_path / "odd.pth")
    with pytest.raises((ModelFileError, SettingsError), match=f"odd.pth: .*{message}"):
        import_scripts(tmp_path / "odd.pth", names)


@pytest.fixture(scope="module")
def scripts_v2():
    script = Script("mobilenet_v2")
    with torch.inference_mode():
        script(torch.zeros(1, 3, 32, 32))
    return script.state


def test_a_file_of_several_gpus_is_read_too(scripts_v2, tmp_path):
    torch.save({f"module.{key}": tensor for key, tensor in scripts_v2.items()}, tmp_path / "parallel.pth")
    imported = import_scripts(tmp_path / "parallel.pth", NAMES)
    torch.testing.assert_close(
        imported.detector.neck.reduce_p4[0].weight, scripts_v2["upsample2.upsample.0.conv.weight"]
    )


def test_as_start_weights_the_way_over_import_is_named(scripts_v2, tmp_path):
    torch.save(scripts_v2, tmp_path / "scripts.pth")
    with pytest.raises(ModelFileError, match="pocketdet import"):
        load_start_weights(build_backbone("mobilenet_v2"), tmp_path / "scripts.pth")


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_command_makes_a_checkpoint_that_predicts_evaluates_and_exports(scripts_v2, tmp_path, run):
    torch.save(scripts_v2, tmp_path / "best.pth")
    (tmp_path / "voc_classes.txt").write_text("\n".join(NAMES))
    (tmp_path / "yolo_anchors.txt").write_text(
        "9, 11,  19,36,  40,28,  36,75,  76,55,  72,146,  142,110,  192,243,  459,401"
    )
    files = ("--names", tmp_path / "voc_classes.txt", "--anchors", tmp_path / "yolo_anchors.txt")
    output = tmp_path / "mine.safetensors"
    code, printed, errors = run("import", tmp_path / "best.pth", *files, "--size", 64, "-o", output, "--json")
    assert (code, errors) == (0, "")
    document = json.loads(printed)
    assert (document["missing"], document["class_names"]) == ([], list(NAMES))
    assert "backbone.model.classifier.1.weight" in document["unused"]
    metadata = load_detector(output)[1]
    assert document["stretch"]
    assert metadata.stretch
    assert run("import", tmp_path / "best.pth", *files, "-o", tmp_path / "boxed.safetensors", "--letterbox")[0] == 0
    assert not load_detector(tmp_path / "boxed.safetensors")[1].stretch
    assert (metadata.input_size, metadata.anchors[0], metadata.anchors[2][2]) == (
        (64, 64),
        ((9, 11), (19, 36), (40, 28)),
        (459, 401),
    )
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    Image.new("RGB", (80, 60), "red").save(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "Annotations/a.xml").write_text(
        "<annotation><filename>a.jpg</filename><size><width>80</width><height>60</height><depth>3</depth></size>"
        "<object><name>class 3</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>50</xmax><ymax>50</ymax></bndbox>"
        "</object></annotation>"
    )
    code, printed, errors = run(
        "evaluate", tmp_path, "--model", output, "--split", "train", "--classes", "class 3", "--json"
    )
    assert code == 0, errors
    assert 0 <= json.loads(printed)["ap"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.pth", "--size", 100), "multiples of 32"),
        (("a.pth", "--anchors", "few.txt"), "few.txt: holds 2 numbers; expected 18"),
        (("a.cfg", "a.weights", "--size", 64), "a.cfg has its own"),
        (("a.pth", "b.pth"), "a.pth b.pth; expected"),
    ],
)
def test_the_command_refuses_what_does_not_go_together(tmp_path, monkeypatch, run, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("few.txt").write_text("1, 2")
    code, _, errors = run("import", *arguments, "--classes", "cat", "-o", "out.safetensors")
    assert code == 2
    assert message in errors
