"""ONNX files on ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import LevelLogits
from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.seal import is_intact
from pocketdet.errors import ModelFileError
from pocketdet.runtime.backends.backend import INPUT_NAME, check_outputs, expected_shapes, threads_of_a_run

METADATA_KEY = "pocketdet"  # in an ONNX file's metadata_props
SPIN_MICROSECONDS = "50"
SILENT = 4  # ONNX Runtime's log level "fatal": what goes wrong is raised, not printed


class OnnxBackend:
    """Runs an exported ONNX file on ONNX Runtime.

    Args:
        path: The file.
        threads: By default as many as the machine has cores.
        streams: How many runs share them.

    Raises:
        ModelFileError: The file is missing, cut, changed or not exported by pocketdet.
    """

    def __init__(self, path: str | Path, threads: int | None = None, streams: int = 1) -> None:
        import onnxruntime  # 60 ms that a failing command line need not pay

        self._path = path = Path(path)
        if not path.is_file():
            raise ModelFileError(f"{path}: no such model file")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = SILENT
        # From one layer to the next a thread that spins is there sooner than one that has to be woken. For longer it
        # would take the cores from the decoder, other runs and other programs.
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
        options.intra_op_num_threads = threads_of_a_run(threads, streams) or 0  # 0: as many as there are cores
        content = path.read_bytes()
        try:
            # Without ONNX Runtime's fallback, which prints and tries the same again.
            self._session: Any = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
            inputs = [(node.name, node.type) for node in self._session.get_inputs()]
            outputs = {node.name: list(node.shape) for node in self._session.get_outputs()}
        except Exception as error:  # ONNX Runtime's errors have no class of their own in common
            raise ModelFileError(
                f"{path}: ONNX Runtime cannot read this file as a model ({_first_line(error)}); "
                "it may be cut or changed: copy or export it again"
            ) from error
        if text is None:
            raise ModelFileError(
                f"{path}: the model has no pocketdet metadata; only files written by 'pocketdet export' can be used"
            )
        if not is_intact(content):
            raise ModelFileError(
                f"{path}: the file was changed after 'pocketdet export' wrote it; copy or export it again"
            )
        self.metadata: ModelMetadata = ModelMetadata.from_json(text, str(path))
        self._names = list(expected_shapes(self.metadata))
        if inputs != [(INPUT_NAME, "tensor(uint8)")]:
            raise ModelFileError(f"{path}: expected one uint8 input named '{INPUT_NAME}', the model has {inputs}")
        check_outputs(path, self.metadata, outputs)

    def run(self, images: NDArray[np.uint8]) -> list[LevelLogits]:
        """See ``Backend.run``.

        Raises:
            ModelFileError: ONNX Runtime stops within the network.
        """
        outputs = self.fetch(images, {})
        return [LevelLogits(*outputs[n : n + 3]) for n in range(0, len(outputs), 3)]

    def fetch(self, images: NDArray[np.uint8], thresholds: Mapping[str, float]) -> list[NDArray[Any]]:
        """See ``BoxBackend.fetch``; errors as ``run``."""
        inputs = {INPUT_NAME: images, **{name: np.array([value], np.float32) for name, value in thresholds.items()}}
        try:
            outputs: list[NDArray[Any]] = self._session.run(self._names, inputs)
        except Exception as error:  # see above
            raise ModelFileError(
                f"{self._path}: the network cannot be run on {images.shape} pixels ({_first_line(error)}); "
                "the file may be changed: copy or export it again"
            ) from error
        return outputs


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rpartition(" : ")[2][:200]
