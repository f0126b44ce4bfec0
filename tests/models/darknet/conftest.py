import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pocketdet.models.darknet.weights import write_weights
from pocketdet.models.detector import build_darknet

HERE = Path(__file__).parent
ORACLE = HERE.parents[2] / ".venv-oracle" / "bin" / "python"


def load_beside(name):
    """A module of this folder; pytest imports tests without making their folders importable."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cfgs():
    return load_beside("cfgs")


@pytest.fixture(scope="session")
def small_cfgs(cfgs):
    """The four structures with few channels."""
    return {
        "yolov4": cfgs.yolov4(3, 0.125, 96),
        "yolov4_tiny": cfgs.yolov4_tiny(3, 0.25, 96),
        "yolov3": cfgs.yolov3(3, 0.125, 96),
        "mobilenet": cfgs.mobilenet(3, 0.5, 96, "leaky"),  # OpenCV knows no relu6
    }


@pytest.fixture(scope="session")
def pictures():
    """Random pictures with large and small spots, as photographs have them: maps differ from cell to cell."""

    def make(count, size):
        generator = torch.Generator().manual_seed(count)
        total = torch.zeros(count, 3, *size)
        for cells in (2, 4, 8, 16, 32):
            spots = torch.rand(count, 3, cells, cells, generator=generator) - 0.5
            total += F.interpolate(spots, size, mode="bilinear")
        return (total / 2 + 0.5).clamp(0, 1)

    return make


@pytest.fixture(scope="session")
def random_detector(pictures):
    """Builds a detector from a cfg whose layers all count, with maps and logits as large as a trained one's."""

    def build(text):
        torch.manual_seed(0)
        detector = build_darknet(text)
        for layer in detector.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
                nn.init.uniform_(layer.weight, 0.25, 0.75)
                nn.init.normal_(layer.bias, 0, 0.1)
        for head in detector.head.levels:
            for output in (head.boxes, head.objectness, head.classes):
                nn.init.normal_(output.weight, 0, 1.5 / output.weight[0].numel() ** 0.5)
                nn.init.normal_(output.bias)
        with torch.no_grad():
            detector.train()(pictures(4, detector.backbone.input_size))  # running statistics of real maps
        return detector.eval()

    return build


@pytest.fixture(scope="session")
def ask_opencv():
    """What OpenCV 4.14 computes of darknet's files, in an environment of its own: OpenCV 5 no longer reads them."""
    if not ORACLE.exists():
        pytest.skip("make .venv-oracle/.installed makes the environment of OpenCV 4.14")

    def ask(folder, networks):
        """Of {name: (cfg text, detector, image)} the arrays by name."""
        for name, (text, detector, image) in networks.items():
            (folder / f"{name}.cfg").write_text(text)
            write_weights(detector, folder / f"{name}.weights")
            np.save(folder / f"{name}.npy", image)
        subprocess.run([ORACLE, HERE / "ask_opencv.py", folder], check=True, timeout=120)
        return {name: np.load(folder / f"{name}.npz") for name in networks}

    return ask
