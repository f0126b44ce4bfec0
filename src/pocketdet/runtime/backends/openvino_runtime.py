"""OpenVINO's own files (``.xml`` and ``.bin``) on OpenVINO."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import LevelLogits
from pocketdet.core.sidecar import read_sidecar
from pocketdet.errors import ModelFileError
from pocketdet.runtime.backends.backend import INPUT_NAME, expected_channels, output_names


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
        self._names = output_names(len(self.metadata.strides))
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._of_thread = threading.local()
        core = openvino.Core()
        try:
            model = core.read_model(path)
            self._check_graph(model)
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
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        request = self._of_thread.request
        try:
            request.infer({INPUT_NAME: np.ascontiguousarray(images)})
        except RuntimeError as error:
            raise ModelFileError(
                f"{self._path}: the network cannot be run on {images.shape} pixels ({_first_line(error)})"
            ) from error
        outputs = [request.get_tensor(name).data.copy() for name in self._names]
        return [LevelLogits(*outputs[n : n + 3]) for n in range(0, len(outputs), 3)]

    def _check_graph(self, model: Any) -> None:
        """The graph must be the one that the metadata describe, else boxes would be wrong in silence."""
        found = {name: port.partial_shape for port in model.outputs for name in port.names}
        for name, expected in zip(self._names, expected_channels(self.metadata), strict=True):
            shape = found.get(name)
            if shape is None or len(shape) != 4 or shape[1] != expected:
                raise ModelFileError(
                    f"{self._path}: output '{name}' is {'missing' if shape is None else shape}, but anchors and "
                    f"classes of the sidecar ask for {expected} channels: export it again"
                )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:200]
