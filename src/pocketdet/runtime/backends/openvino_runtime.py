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
        threads: By default as OpenVINO chooses.
        streams: How many runs share them.

    Raises:
        ModelFileError: A file is missing, cut, changed or not exported by pocketdet.
    """

    def __init__(self, path: str | Path, threads: int | None = None, streams: int = 1) -> None:
        import openvino

        self._path = path = Path(path)
        self.metadata = read_sidecar(path)
        self._names = list(expected_shapes(self.metadata))
        self._options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if streams > 1:
            self._options["NUM_STREAMS"] = streams
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._core = openvino.Core()
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._compiling = threading.Lock()
        self._of_thread = threading.local()
        try:
            self._model = model = self._core.read_model(path)
            check_outputs(path, self.metadata, {name: _sizes(port) for port in model.outputs for name in port.names})
            self._compile((1, *self.metadata.input_size, 3))
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
        """See ``BoxBackend.fetch``; errors as ``run``. OpenVINO's files have no NMS of their own, so no thresholds.

        Picture after picture: a batch costs as much as its pictures.
        """
        try:
            request = self._request((1, *images.shape[1:]))
            pictures = [self._infer(request, images[n : n + 1]) for n in range(len(images))]
        except RuntimeError as error:
            raise ModelFileError(
                f"{self._path}: the network cannot be run on {images.shape} pixels ({_first_line(error)})"
            ) from error
        return pictures[0] if len(pictures) == 1 else [np.concatenate(parts) for parts in zip(*pictures, strict=True)]

    def _infer(self, request: Any, image: NDArray[np.uint8]) -> list[NDArray[Any]]:
        request.infer({INPUT_NAME: np.ascontiguousarray(image)})
        return [request.get_tensor(name).data.copy() for name in self._names]

    def _request(self, shape: tuple[int, ...]) -> Any:
        """This thread's, for pictures of one size."""
        requests = vars(self._of_thread).setdefault("requests", {})
        if shape not in requests:
            with self._compiling:
                requests[shape] = self._compile(shape).create_infer_request()
        return requests[shape]

    def _compile(self, shape: tuple[int, ...]) -> Any:
        """For one shape of the input, even where the file takes any.

        That is faster, and with 8-bit integers OpenVINO 2026 crashes on CPUs with AMX where the input's shape
        is open: https://github.com/openvinotoolkit/openvino/issues/37577.
        """
        if shape not in self._compiled:
            from openvino import PartialShape

            model = self._model.clone()
            if model.input().partial_shape.compatible(PartialShape(list(shape))):  # else it says itself what is wrong
                model.reshape(shape)
            self._compiled[shape] = self._core.compile_model(model, "CPU", self._options)
        return self._compiled[shape]


def _sizes(port: Any) -> list[int | None]:
    return [size.get_length() if size.is_static else None for size in port.partial_shape]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:200]
