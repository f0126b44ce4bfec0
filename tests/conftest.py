"""For all tests: settled threads, repeatable property tests, and a tiny network that really looks at its pixels."""

import io
import os
import shutil

# Before anything imports torch or ONNX Runtime: spinning threads slow a small machine down many times.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.seal import BLANK, SEAL_KEY, seal
from pocketdet.loading import ASSETS

# No time limit an example (a busy machine is no failure), the same examples every time, nothing written to disk.
hypothesis.settings.register_profile("pocketdet", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("pocketdet")


# Without these Chromium looks for Google's hosts, and needs a sandbox that root has not.
CHROMIUM_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--window-size=800,1000",
)

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


def write_voc(folder: Path, classes: tuple[str, ...]) -> Path:
    """24 pictures of a cat and an astronaut with one box each, in turn of every class; a quarter is ``val``."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    pictures = [Image.open(ASSETS / name).convert("RGB") for name in ("chelsea.jpg", "astronaut.jpg")]
    for n in range(24):
        picture = pictures[n % 2].resize((96 + 2 * n, 80))
        picture.save(folder / f"JPEGImages/{n}.jpg")
        box = f"<xmin>{10 + n}</xmin><ymin>5</ymin><xmax>90</xmax><ymax>{40 + n}</ymax>"
        label = f"<object><name>{classes[n % len(classes)]}</name><bndbox>{box}</bndbox></object>"
        size = f"<size><width>{picture.width}</width><height>80</height></size>"
        (folder / f"Annotations/{n}.xml").write_text(f"<annotation>{size}{label}</annotation>")
    for split, members in {"train": range(12), "val": range(12, 18), "test": range(18, 24)}.items():
        (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{n}\n" for n in members))
    return folder


@pytest.fixture(scope="session")
def voc_writer() -> Callable[[Path, tuple[str, ...]], Path]:
    return write_voc


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by Selenium; skips where one of them is missing."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in CHROMIUM_ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        yield browser


@pytest.fixture
def shoot(browser: Any, tmp_path: Path) -> Callable[[str], None]:
    """Keeps what the browser shows; POCKETDET_SCREENSHOTS=docs/images renews the pictures of the documents."""

    def keep(name: str) -> None:
        image = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        assert len(image.resize((64, 64)).getcolors(64 * 64) or []) > 8, "nothing is drawn"
        image.save(Path(os.environ.get("POCKETDET_SCREENSHOTS", tmp_path)) / f"{name}.jpg", quality=85)

    return keep


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
