"""Which runtime a file is for. A runtime is imported when the first file of its kind is opened."""

import importlib
import importlib.util
from pathlib import Path
from typing import NamedTuple, cast

from pocketdet.errors import MissingExtraError, ModelFileError
from pocketdet.runtime.backends.backend import Backend


class Runtime(NamedTuple):
    """What opens the files of one suffix.

    Args:
        module: In this folder.
        backend: The class in it; it takes the file, the number of threads and that of streams.
        package: That has to be installed.
        extra: Of pocketdet, which installs it; nothing where the base install has it.
    """

    module: str
    backend: str
    package: str
    extra: str = ""


RUNTIMES = {
    ".onnx": Runtime("onnx_runtime", "OnnxBackend", "onnxruntime"),
    ".ncnn.param": Runtime("ncnn_runtime", "NcnnBackend", "ncnn", "ncnn"),
    ".xml": Runtime("openvino_runtime", "OpenVinoBackend", "openvino", "openvino"),
    ".tflite": Runtime("litert", "LiteRtBackend", "ai_edge_litert", "litert"),
    ".pte": Runtime("executorch_runtime", "ExecuTorchBackend", "executorch", "executorch"),
}


def find_runtime(path: str | Path) -> Runtime | None:
    """Of a file's suffix; ``None`` where no runtime is known for it."""
    name = Path(path).name.lower()
    return next((runtime for suffix, runtime in RUNTIMES.items() if name.endswith(suffix)), None)


def open_backend(path: str | Path, threads: int | None = None, streams: int = 1) -> Backend:
    """Open an exported file by its own runtime.

    Args:
        path: The file.
        threads: By default as many as the machine has cores.
        streams: How many runs share the threads, if so many are asked for at once: of two pictures on two threads each
            has one, which is faster than both threads for one and then for the other.

    Raises:
        ModelFileError: The file is missing, cut, changed, not exported by pocketdet or of an unknown kind.
        MissingExtraError: Its runtime is not installed.
    """
    runtime = find_runtime(path)
    if runtime is None:
        raise ModelFileError(f"{path}: no runtime is known for this kind of file; expected {', '.join(RUNTIMES)}")
    if importlib.util.find_spec(runtime.package) is None:
        raise MissingExtraError(
            f'{path}: to run this file install {runtime.package}: pip install "pocketdet[{runtime.extra}]"'
        )
    module = importlib.import_module(f"pocketdet.runtime.backends.{runtime.module}")
    return cast(Backend, getattr(module, runtime.backend)(Path(path), threads, streams))
