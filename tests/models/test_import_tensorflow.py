"""Files with the names of Keras and TF-slim against a forward pass written here, with TensorFlow's SAME padding."""

import hashlib
import math
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pocketdet.errors import MissingExtraError, ModelFileError
from pocketdet.models import build_backbone, build_detector, load_start_weights, read_start_weights_info
from pocketdet.models.import_tensorflow import read_tensorflow

h5py = pytest.importorskip("h5py")


class Names(NamedTuple):
    """How layers are called; blocks count from 0, but V1's, which count from 1."""

    stem: str
    norm: str  # of the layer {}
    first_block: str
    block: str
    kernel: str
    depthwise_kernel: str
    bias: str
    suffix: str = ""


KERAS_V1 = Names("conv1", "{}_bn", "", "conv_{layer}_{n}", "kernel", "depthwise_kernel", "bias", ":0")
KERAS_V2 = Names(
    "Conv1", "{}_BN", "expanded_conv_{layer}", "block_{n}_{layer}", "kernel", "depthwise_kernel", "bias", ":0"
)
KERAS_V3 = Names("Conv", "{}/BatchNorm", "expanded_conv/{layer}", "expanded_conv_{n}/{layer}", *KERAS_V2[4:])
KERAS_3_V3 = Names(  # Keras 3 knows no depthwise_kernel
    "conv", "{}_bn", "expanded_conv_{layer}", "expanded_conv_{n}_{layer}", "kernel", "kernel", "bias"
)
SLIM_V1 = Names("Conv2d_0", "{}/BatchNorm", "", "Conv2d_{n}_{layer}", "weights", "depthwise_weights", "biases")
SLIM = Names("Conv", *KERAS_V3[1:4], "weights", "depthwise_weights", "biases")
SLIM_LAYERS = {"dw": "depthwise", "pw": "pointwise"}
CHECKPOINT = Path(__file__).parent / "tf_checkpoint"
RE6, HS = (lambda x: x.clamp(0, 6)), F.hardswish


class TensorFlow:
    """A network as functions of variables by name; a new name gets seeded random values, laid out as TensorFlow's."""

    def __init__(self, names):
        self.names, self.variables, self.generator = names, {}, np.random.default_rng(0)

    def v1(self, x, width):
        x, taps = RE6(self.layer(x, self.names.stem, int(32 * width), 3, 2)), []
        channels = [64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
        for n, out in enumerate(channels, start=1):
            layers = (("dw", x.shape[1], 3, 2 if n in (2, 4, 6, 12) else 1), ("pw", int(out * width), 1, 1))
            for layer, wide, kernel, stride in layers:
                layer = SLIM_LAYERS[layer] if self.names is SLIM_V1 else layer
                name = self.names.block.format(n=n, layer=layer)
                x = RE6(self.layer(x, name, wide, kernel, stride, is_depthwise=kernel == 3))
            taps += [x] if n in (5, 11, 13) else []
        return taps

    def v2(self, x, width):
        rows = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        depth = lambda channels: max(8, int(channels * width + 4) // 8 * 8)  # noqa: E731 - exact at these widths
        norm = self.names.norm
        if self.names is KERAS_V2:
            self.names = self.names._replace(norm="bn_{}")
        x, taps, n = RE6(self.layer(x, self.names.stem, depth(32), 3, 2)), [], 0
        self.names = self.names._replace(norm=norm)
        for expansion, out, repeats, first_stride in rows:
            for repeat in range(repeats):
                stride, wide = first_stride if repeat == 0 else 1, x.shape[1] * expansion
                x = self.bottleneck(x, n, wide, depth(out), 3, stride, RE6, False)
                taps += [x] if n in (5, 12, 16) else []
                n += 1
        return taps

    def v3_small(self, x, width):
        x, taps = HS(self.layer(x, self.names.stem, 16, 3, 2)), []
        rows = [(3, 16, 16, True, F.relu, 2), (3, 72, 24, False, F.relu, 2), (3, 88, 24, False, F.relu, 1)]
        rows += [
            (5, 96, 40, True, HS, 2),
            (5, 240, 40, True, HS, 1),
            (5, 240, 40, True, HS, 1),
            (5, 120, 48, True, HS, 1),
        ]
        rows += [
            (5, 144, 48, True, HS, 1),
            (5, 288, 96, True, HS, 2),
            (5, 576, 96, True, HS, 1),
            (5, 576, 96, True, HS, 1),
        ]
        for n, (kernel, wide, out, has_se, activation, stride) in enumerate(rows):
            x = self.bottleneck(x, n, wide, out, kernel, stride, activation, has_se)
            taps += [x] if n in (2, 7, 10) else []
        return taps

    def bottleneck(self, x, n, wide, out, kernel, stride, activation, has_se):
        name, y = (lambda layer: (self.names.block if n else self.names.first_block).format(n=n, layer=layer)), x
        if n:
            y = activation(self.layer(y, name("expand"), wide, 1))
        y = activation(self.layer(y, name("depthwise"), wide, kernel, stride, is_depthwise=True))
        if has_se:
            se = "squeeze_excite_conv{}" if self.names is KERAS_3_V3 else "squeeze_excite/Conv{}"
            gate = F.relu(self.biased(y.mean((2, 3), keepdim=True), name(se.format("")), SQUEEZED[wide]))
            y = y * F.relu6(self.biased(gate, name(se.format("_1")), wide) + 3) / 6
        y = self.layer(y, name("project"), out, 1)
        return x + y if stride == 1 and x.shape[1] == out else y

    def layer(self, x, name, out, kernel, stride=1, is_depthwise=False):
        kind = self.names.depthwise_kernel if is_depthwise else self.names.kernel
        shape = (kernel, kernel, x.shape[1], 1 if is_depthwise else out)
        weight = torch.from_numpy(self.variable(f"{name}/{kind}", shape, kernel**2 * (1 if is_depthwise else shape[2])))
        weight = weight.permute(2, 3, 0, 1) if is_depthwise else weight.permute(3, 2, 0, 1)
        total = [max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
        x = F.pad(x, [pad for side in reversed(total) for pad in (side // 2, side - side // 2)])
        x = F.conv2d(x, weight, None, stride, groups=out if is_depthwise else 1)
        kinds = ("moving_mean", "moving_variance", "gamma", "beta")
        norm = (torch.from_numpy(self.variable(f"{self.names.norm.format(name)}/{kind}", (out,))) for kind in kinds)
        return F.batch_norm(x, *norm, eps=1e-3)

    def biased(self, x, name, out):
        weight = torch.from_numpy(self.variable(f"{name}/{self.names.kernel}", (1, 1, x.shape[1], out), x.shape[1]))
        return F.conv2d(
            x, weight.permute(3, 2, 0, 1), torch.from_numpy(self.variable(f"{name}/{self.names.bias}", (out,)))
        )

    def variable(self, name, shape, fan_in=25):
        random = self.generator.normal(size=shape)
        if name.endswith("moving_variance"):
            value = 0.5 + 0.5 * abs(random)
        else:
            value = random / fan_in**0.5 + (1 if name.endswith("gamma") else 0)
        assert name not in self.variables
        self.variables[name + self.names.suffix] = value.astype(np.float32)
        return self.variables[name + self.names.suffix]


SQUEEZED = {16: 8, 96: 24, 240: 64, 120: 32, 144: 40, 288: 72, 576: 144}


def write_h5(path, variables, root=""):
    """As Keras does: a group a layer, which lists the names of its weights."""
    layers = {}
    for name in variables:
        layers.setdefault(name.rpartition("/")[0], []).append(name)
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        empty = ["input_1", "conv1_relu"]
        group.attrs["layer_names"] = [name.encode() for name in (*empty, *layers)]
        for layer in empty:
            group.create_group(layer).attrs["weight_names"] = []
        for layer, names in layers.items():
            own = group.require_group(layer)
            own.attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                own[name] = variables[name]


CASES = {
    "Keras V1": (KERAS_V1, "v1", "mobilenet_v1", 0.25),
    "Keras V2": (KERAS_V2, "v2", "mobilenet_v2", 0.5),
    "Keras V3": (KERAS_V3, "v3_small", "mobilenet_v3_small", 1.0),
    "Keras 3 V3": (KERAS_3_V3, "v3_small", "mobilenet_v3_small", 1.0),
    "slim V1": (SLIM_V1, "v1", "mobilenet_v1", 0.25),
    "slim V2": (SLIM, "v2", "mobilenet_v2", 0.5),
    "slim V3": (SLIM, "v3_small", "mobilenet_v3_small", 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_backbone_computes_what_tensorflow_computes(case, tmp_path):
    names, function, backbone, width = CASES[case]
    network, images = TensorFlow(names), torch.rand(2, 3, 64, 96) * 2 - 1
    theirs = getattr(network, function)(images, width)
    if "Keras" in case:
        path = tmp_path / "weights.h5"
        write_h5(path, network.variables, root="model_weights" if case == "Keras 3 V3" else "")
    else:
        path = tmp_path / "variables.npz"
        prefix = f"FeatureExtractor/MobilenetV{backbone[11]}/"
        np.savez(path, **{prefix + name: value for name, value in network.variables.items()}, global_step=np.array(7))
    info = read_start_weights_info(path)
    assert info[:3] == ("same", (0.5,) * 3, (0.5,) * 3)
    ours = build_backbone(backbone, width, info.padding).eval()
    report = load_start_weights(ours, path)
    assert (report.missing, report.mismatched) == ((), ())
    assert report.unexpected == (() if "Keras" in case else ("global_step",))
    with torch.inference_mode():
        for level, expected in zip(ours(images), theirs, strict=True):
            assert expected.std() > 0.05
            torch.testing.assert_close(level, expected, rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def slim_v2():
    network = TensorFlow(SLIM)
    network.v2(torch.zeros(1, 3, 32, 32), 0.5)
    return {f"MobilenetV2/{name}": value for name, value in network.variables.items()}


def test_a_detector_takes_the_backbone_and_says_what_else_was_in_the_file(slim_v2, tmp_path):
    head = {"MobilenetV2/Logits/Conv2d_1c_1x1/weights": np.zeros((1, 1, 1280, 1001), np.float32)}
    np.savez(tmp_path / "v2.npz", **slim_v2, **head)
    detector = build_detector("mobilenet_v2", 3, width=0.5, neck_width=0.125, padding="same")
    report = load_start_weights(detector, tmp_path / "v2.npz")
    assert not [key for key in report.missing if key.startswith("backbone.")]
    assert report.unexpected == tuple(head)
    stem = detector.backbone.features[0][0].weight
    np.testing.assert_array_equal(stem.detach(), slim_v2["MobilenetV2/Conv/weights"].transpose(3, 2, 0, 1))


def test_variables_in_safetensors_will_do(slim_v2, tmp_path):
    from safetensors.numpy import save_file

    save_file(slim_v2, tmp_path / "v2.safetensors")
    assert read_start_weights_info(tmp_path / "v2.safetensors").padding == "same"
    report = load_start_weights(build_backbone("mobilenet_v2", 0.5, "same"), tmp_path / "v2.safetensors")
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())


def test_of_a_variable_and_its_average_the_average_is_taken(slim_v2, tmp_path):
    average = {"MobilenetV2/Conv/weights/ExponentialMovingAverage": 2 * slim_v2["MobilenetV2/Conv/weights"]}
    np.savez(tmp_path / "v2.npz", **slim_v2, **average)
    backbone = build_backbone("mobilenet_v2", 0.5, "same")
    load_start_weights(backbone, tmp_path / "v2.npz")
    np.testing.assert_array_equal(
        backbone.features[0][0].weight.detach(), next(iter(average.values())).transpose(3, 2, 0, 1)
    )


def test_another_width_is_refused(slim_v2, tmp_path):
    np.savez(tmp_path / "v2.npz", **slim_v2)
    with pytest.raises(ModelFileError, match="choose start weights of the same backbone and width"):
        load_start_weights(build_backbone("mobilenet_v2", 0.75, "same"), tmp_path / "v2.npz")


@pytest.fixture
def checkpoint(tmp_path):
    """Written by TensorFlow itself, see its README.md; a copy."""
    for file in CHECKPOINT.glob("v1.ckpt.*"):
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path / "v1.ckpt.index"


@pytest.mark.parametrize("name", ["v1.ckpt", "v1.ckpt.index"])
def test_of_a_checkpoint_the_same_is_read_as_tensorflow_reads(name):
    variables = {key: tensor.numpy() for key, tensor in read_tensorflow(CHECKPOINT / name).items()}
    found = [
        f"{key} {array.dtype} {'x'.join(map(str, array.shape))} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
        for key, array in sorted(variables.items())
    ]
    assert found == (CHECKPOINT / "read_by_tensorflow.txt").read_text().splitlines()


def test_a_checkpoint_fills_a_backbone(checkpoint):
    info = read_start_weights_info(checkpoint)
    assert info[:3] == ("same", (0.5,) * 3, (0.5,) * 3)
    report = load_start_weights(build_backbone("mobilenet_v1", 0.005, "same"), checkpoint)
    assert (report.missing, report.mismatched) == ((), ())
    assert report.unexpected == ("global_step", "half")


def test_a_damaged_checkpoint_is_a_clear_error(checkpoint):
    whole, data = checkpoint.read_bytes(), checkpoint.with_name("v1.ckpt.data-00000-of-00001")
    for count in range(0, len(whole), 53):
        checkpoint.write_bytes(whole[:count])
        with pytest.raises(ModelFileError, match="no whole checkpoint of TensorFlow: its end is not that of an index"):
            read_tensorflow(checkpoint)
        changed = bytearray(whole)
        changed[count] ^= 1 << count % 8
        checkpoint.write_bytes(changed)
        if count < len(whole) - 48:  # of the footer some bytes are not read
            with pytest.raises(ModelFileError, match="the checksum of the block at"):
                read_tensorflow(checkpoint)
    checkpoint.write_bytes(whole)
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match=r"v1.ckpt.data-00000-of-00001 has 11314 bytes; .* it is cut"):
        read_tensorflow(checkpoint)
    data.unlink()
    with pytest.raises(ModelFileError, match=r"No such file or directory: .*v1.ckpt.data-00000-of-00001"):
        read_tensorflow(checkpoint)
    with pytest.raises(ModelFileError, match=r"other.ckpt.index: No such file.*other.ckpt.data-00000-of-00001"):
        read_tensorflow(checkpoint.with_name("other.ckpt"))


class Trap:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("gone.h5", lambda path: None, "there is no such file"),
        ("cut.h5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "not a whole .h5 file of Keras"),
        ("keras3.weights.h5", lambda path: write_keras_3(path), r'names no layers.*model\.save\("model\.h5"\)'),
        ("text.h5", lambda path: write_h5(path, {"conv1/kernel:0": np.array([b"abc"])}), "no array of numbers"),
        ("cut.npz", lambda path: path.write_bytes(b"PK\x03\x04"), "not a whole .npz file"),
        ("trap.npz", lambda path: np.savez(path, conv=np.array([Trap()])), "never executed"),
        ("trap2.npz", lambda path: np.array([Trap()]).dump(path), "never executed"),
    ],
)
def test_a_damaged_or_foreign_file_is_a_clear_error_and_never_executed(tmp_path, capsys, name, write, message):
    write(tmp_path / name)
    with pytest.raises(ModelFileError, match=f"{name}: .*{message}"):
        load_start_weights(build_backbone("mobilenet_v2", 0.25), tmp_path / name)
    assert capsys.readouterr().out == ""


def write_keras_3(path):
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 32), np.float32)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "v2.h5").touch()
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pocketdet\[keras\]"):
        read_start_weights_info(tmp_path / "v2.h5")
