"""Facts around a detector: its data in figures, and the machine that it was measured on."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.images import image_size
from pocketdet.core.letterbox import Letterbox
from pocketdet.datasets.records import Dataset
from pocketdet.errors import ImageError

PACKAGES = (
    "pocketdet",
    "torch",
    "lightning-fabric",
    "onnxruntime",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "hotcoco",
)


class SplitFacts(NamedTuple):
    """One split in figures."""

    pictures: int
    empty: int  # pictures without an object
    objects: tuple[int, ...]  # one count a class
    difficult: int
    box_sizes: NDArray[np.float64]  # square roots of the areas, in input pixels


def describe_split(dataset: Dataset, input_size: tuple[int, int]) -> SplitFacts:
    """Count, and measure the boxes as the network sees them.

    Args:
        dataset: The split; pictures that can no longer be read are not measured.
        input_size: (height, width) of the network's input.
    """
    class_ids = np.concatenate([np.zeros(0, np.int64), *(record.class_ids for record in dataset.records)])
    sizes = [np.zeros(0)]
    for record in dataset.records:
        if not len(record.boxes):
            continue
        try:
            scale = Letterbox(image_size(record.path), input_size).scale
        except ImageError:
            continue
        sizes.append(scale * np.sqrt(np.prod(record.boxes[:, 2:] - record.boxes[:, :2], axis=1, dtype=np.float64)))
    return SplitFacts(
        len(dataset.records),
        sum(not len(record.boxes) for record in dataset.records),
        tuple(np.bincount(class_ids, minlength=len(dataset.class_names)).tolist()),
        sum(int(record.difficult.sum()) for record in dataset.records),
        np.concatenate(sizes),
    )


def describe_environment(extra: Mapping[str, object]) -> dict[str, object]:
    """Versions, processor and threads; ``extra`` comes last."""
    return {
        "Python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _installed(name))},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        **{name: os.environ[name] for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY") if name in os.environ},
        **extra,
    }


def _installed(name: str) -> str:
    """The version, without an import; empty where the package is not installed."""
    if name == "pocketdet":
        from pocketdet import __version__

        return __version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """The name that Linux knows, else what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
