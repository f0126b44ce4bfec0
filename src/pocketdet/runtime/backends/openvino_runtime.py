"""OpenVINO's own files (``.xml`` and ``.bin``) on OpenVINO."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import LevelLogits
from pocketdet.core.sidecar import read_sidecar
from pocketdet.errors import ModelFileError
from pocketdet.runtime.backends.backend import INPUT_NAME, check_outputs, expected_shapes


class OpenVinoBackend:
    """Runs an exported OpenVINO model on the CPU.

    In float32 where the file says so: by itself OpenVINO takes bfloat16 on CPUs that have it, and a file would compute
    something else on each machine.

    Args:
        path: The ``.xml`` file; its ``.bin`` and sidecar lie beside it.
        threads: Of one run; by default as OpenVINO chooses.

    Raises:
        ModelFileError: A file is missing, cut, changed or not exported by pocketdet.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        import openvino

        self._path = path = Path(path)
        self.metadata = read_sidecar(path)
        self._names = list(expected_shapes(self.metadata))
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._of_thread = threading.local()
        core = openvino.Core()
        try:
            model = core.read_model(path)
            check_outputs(path, self.metadata, {name: _sizes(port) for port in model.outputs for name in port.names})
            self._compiled: Any = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise ModelFileError(
                f"{path}: OpenVINO cannot read this file as a model ({_first_line(error)}); copy or export it again"
            ) from error

    def run(self, images: NDArray[np.uint8]) -> list[LevelLogits]:
        """See ``Backend.run``.

        Raises:
            ModelFileError: OpenVINO stops within the network.
        """
        outputs = self.fetch(images, {})
        return [LevelLogits(*outputs[n : n + 3]) for n in range(0, len(outputs), 3)]

    def fetch(self, images: NDArray[np.uint8], thresholds: Mapping[str, float]) -> list[NDArray[Any]]:
        """See ``BoxBackend.fetch``; errors as ``run``. OpenVINO's files have no NMS of their own, so no thresholds."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        request = self._of_thread.request
        try:
            request.infer({INPUT_NAME: np.ascontiguousarray(images)})
        except RuntimeError as error:
            raise ModelFileError(
                f"{self._path}: the network cannot be run on {images.shape} pixels ({_first_line(error)})"
            ) from error
        return [request.get_tensor(name).data.copy() for name in self._names]


def _sizes(port: Any) -> list[int | None]:
    return [size.get_length() if size.is_static else None for size in port.partial_shape]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:200]
