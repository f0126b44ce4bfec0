"""From the name or the file of a model to a detector that is ready to use."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, cast

from pocketdet.core.decode import Nms
from pocketdet.errors import MissingExtraError, ModelFileError
from pocketdet.runtime.backends import RUNTIMES, Backend, find_runtime, open_backend
from pocketdet.runtime.predictor import Predictor

ASSETS = Path(__file__).parent / "assets"
BEST_CHECKPOINT = "best.safetensors"
MODEL_PACKAGES = ("torch", "safetensors")
TRAINING_PACKAGES = (*MODEL_PACKAGES, "lightning_fabric", "cv2", "onnx", "tensorboard", "matplotlib", "psutil")
PICKLED_SUFFIXES = (".ckpt", ".pickle", ".pkl", ".pt", ".pth")


class BundledModel(TypedDict):
    """One entry of ``assets/bundled.json``."""

    file: str
    sha256: str
    recipe: str
    AP50: float
    AP: float


def load(model: str | Path = "animals", threads: int | None = None, nms: Nms = "iou") -> Predictor:
    """Load a detector.

    Args:
        model: The name of a bundled detector, an exported file such as ``cats.onnx``, a ``.safetensors`` checkpoint or
            the folder of a training run, whose best checkpoint is taken. Checkpoints need torch.
        threads: That an exported file runs on, and how many pictures of several are worked on at once, which then share
            them; by default as many as the machine has cores.
        nms: "iou", or "diou" to keep boxes that overlap much with distant centres.

    Raises:
        ModelFileError: There is no such model, or its file is cut, changed or of a foreign kind.
        MissingExtraError: What runs the file, torch for a checkpoint, is not installed.
    """
    bundled = bundled_models()
    if str(model) in bundled:
        return _open(_checked(bundled[str(model)]), threads, nms)
    path = Path(model)
    if find_runtime(path) is not None:
        return _open(path, threads, nms)
    if not path.exists():
        raise ModelFileError(
            f"{model}: no such file, and no bundled detector has this name (bundled: {', '.join(bundled) or 'none'}); "
            f"give one of these names, an exported file ({', '.join(RUNTIMES)}), a .safetensors checkpoint or the "
            "folder of a training run"
        )
    return Predictor(_torch_backend(find_checkpoint(path)), nms, threads)


def find_checkpoint(path: str | Path) -> Path:
    """The ``.safetensors`` file that a person means: a file, or the best one of a run's folder.

    Raises:
        ModelFileError: There is none, or the file is of another kind.
    """
    path = Path(path)
    if path.suffix.lower() == ".mlpackage":
        raise ModelFileError(
            f"{path}: a Core ML package is for apps on Apple's systems, and pocketdet cannot open it; "
            "give the checkpoint, or a file in another format"
        )
    if path.is_dir():
        if not (path / BEST_CHECKPOINT).is_file():
            raise ModelFileError(f"{path}: the folder has no {BEST_CHECKPOINT}; expected the folder of a training run")
        return path / BEST_CHECKPOINT
    if not path.exists():
        raise ModelFileError(f"{path}: no such checkpoint")
    if path.suffix.lower() in PICKLED_SUFFIXES:
        raise ModelFileError(
            f"{path}: '{path.suffix}' files can run code when they are opened and are not read as models; "
            f"use {BEST_CHECKPOINT} from the folder of the training run, or make a checkpoint of a foreign one by "
            "pocketdet import"
        )
    if path.suffix.lower() != ".safetensors":
        raise ModelFileError(
            f"{path}: not a checkpoint; expected a .safetensors file or the folder of a training run "
            "(to detect, also an exported .onnx file)"
        )
    return path


def find_weights(model: str | Path) -> Path:
    """As ``find_checkpoint``; also an exported ``.onnx`` file or the name of a bundled detector, which is one.

    Raises:
        ModelFileError: There is none, or the file is of another kind.
    """
    if str(model) in bundled_models():
        return _checked(bundled_models()[str(model)])
    path = Path(model)
    return path if path.suffix.lower() == ".onnx" else find_checkpoint(path)


def bundled_start(backbone: str, width: float, neck_width: float, padding: str | None) -> Path | None:
    """The file of the bundled detector with this backbone (padding None: any), best one with the same neck, too."""
    files = [_checked(model) for model in bundled_models().values()]
    networks = [(file, open_backend(file, threads=1).metadata) for file in files]
    networks = [(file, network) for file, network in networks if padding in (None, network.padding)]
    fitting = [(file, network) for file, network in networks if (network.backbone, network.width) == (backbone, width)]
    fitting.sort(key=lambda pair: pair[1].neck_width != neck_width)
    return fitting[0][0] if fitting else None


def bundled_models() -> dict[str, BundledModel]:
    """The detectors that come with the package, by name."""
    return cast(dict[str, BundledModel], json.loads((ASSETS / "bundled.json").read_text(encoding="utf-8")))


def require_packages(purpose: str, names: Sequence[str] = MODEL_PACKAGES) -> None:
    """Check that optional packages are installed, without importing them.

    Args:
        purpose: What needs them; the subject of the message.
        names: As they are imported.

    Raises:
        MissingExtraError: At least one is not.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f'{purpose} needs {", ".join(missing)}, not installed here; run: pip install "pocketdet[train]"'
        )


def _open(path: Path, threads: int | None, nms: Nms) -> Predictor:
    """An exported file."""

    def open_shared(streams: int) -> Backend:
        return open_backend(path, threads, streams)

    return Predictor(open_backend(path, threads), nms, threads, open_shared)


def _checked(model: BundledModel) -> Path:
    """The file, once its content is known to be the one that was measured."""
    path = ASSETS / model["file"]
    if not path.is_file():
        raise ModelFileError(f"{path}: the bundled model file is missing; install pocketdet again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != model["sha256"]:
        raise ModelFileError(f"{path}: the bundled model file was changed (other SHA-256); install pocketdet again")
    return path


def _torch_backend(checkpoint: Path) -> Backend:
    require_packages(f"{checkpoint}: a checkpoint")
    from pocketdet.models.checkpoint import TorchBackend, load_detector

    return TorchBackend(*load_detector(checkpoint))
