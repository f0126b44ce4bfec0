"""For all tests: settled threads, repeatable property tests, and a tiny network that really looks at its pixels."""

import os

# Before anything imports torch or ONNX Runtime: spinning threads slow a small machine down many times.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.seal import BLANK, SEAL_KEY, seal

# No time limit an example (a busy machine is no failure), the same examples every time, nothing written to disk.
hypothesis.settings.register_profile("pocketdet", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("pocketdet")


TINY_ANCHORS = (((8, 8), (16, 8), (8, 16)), ((16, 16), (32, 16), (16, 32)), ((32, 32), (64, 32), (32, 64)))


def write_tiny_model(path: Path, metadata: ModelMetadata | None = None) -> Path:
    """A network of three 1x1 convolutions a level that finds bright cells and tells red from blue.

    Of a cell with mean colour (r, g, b) in 0 to 1 the first anchor's objectness logit is 20 (r + g + b) - 10, and
    the class logits are 20 (r - b) and 20 (b - r). Boxes lie in the middle of their cell, as large as their anchor.
    """
    onnx = pytest.importorskip("onnx")
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["pixels"], perm=[0, 3, 1, 2]),
    ]
    objectness, classes = np.zeros((3, 3), np.float32), np.zeros((3, 2, 3), np.float32)
    objectness[0], classes[:, 0], classes[:, 1] = 20, (20, 0, -20), (-20, 0, 20)
    parts = {"boxes": (np.zeros((12, 3), np.float32), 0), "objectness": (objectness, -10), "classes": (classes, 0)}
    weights, outputs = [], []
    for part, (kernel, bias) in parts.items():
        kernel = kernel.reshape(-1, 3, 1, 1) / 255
        weights += [
            to_tensor(kernel.astype(np.float32), f"{part}_kernel"),
            to_tensor(np.full(len(kernel), bias, np.float32), f"{part}_bias"),
        ]
    for level, stride in ((3, 8), (4, 16), (5, 32)):
        pooled = f"pooled_p{level}"
        nodes.append(
            helper.make_node("AveragePool", ["pixels"], [pooled], kernel_shape=[stride] * 2, strides=[stride] * 2)
        )
        for part, (kernel, _) in parts.items():
            name = f"{part}_p{level}"
            nodes.append(helper.make_node("Conv", [pooled, f"{part}_kernel", f"{part}_bias"], [name]))
            channels = kernel.size // 3
            shape = ["batch", channels, f"height_p{level}", f"width_p{level}"]
            outputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", 64, 64, 3])
    graph = helper.make_graph(nodes, "tiny", [images], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata is not None:
        helper.set_model_props(model, {"pocketdet": metadata.to_json(), SEAL_KEY: BLANK})
    path.write_bytes(model.SerializeToString())
    seal(path)
    return path


@pytest.fixture(scope="session")
def tiny_metadata() -> ModelMetadata:
    return ModelMetadata("mobilenet_v2", 1.0, 0.5, "same", ("red", "blue"), (64, 64), TINY_ANCHORS, metrics={"AP": 0.5})


@pytest.fixture(scope="session")
def tiny_writer() -> Callable[[Path, ModelMetadata | None], Path]:
    return write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_metadata: ModelMetadata) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx", tiny_metadata)


@pytest.fixture
def red_cell() -> NDArray[np.uint8]:
    """A black picture, 64 x 64, whose cell with the corners (16, 24) and (24, 32) is red."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[24:32, 16:24, 0] = 255
    return pixels


def write_video(
    path: Path,
    frames: list[NDArray[np.uint8]],
    times: list[float] | None = None,
    rotation: int = 0,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """H.264 without loss of more than the halved colours; times in seconds, by default 10 frames a second."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "0", "g": "10", **(codec_options or {})})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for n, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = round(1000 * (times[n] if times else n / 10)), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def video_writer() -> Callable[..., Path]:
    return write_video


@pytest.fixture
def walking_cell() -> list[NDArray[np.uint8]]:
    """20 black pictures, 128 x 128: a red square of 16 pixels walks 16 pixels to the right every fourth picture."""
    frames = []
    for n in range(20):
        pixels = np.zeros((128, 128, 3), np.uint8)
        left = 16 * (n // 4)
        pixels[48:64, left : left + 16, 0] = 255
        frames.append(pixels)
    return frames
