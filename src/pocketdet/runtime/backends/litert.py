"""TFLite files on LiteRT."""

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import LevelLogits
from pocketdet.core.tflite_archive import read_metadata
from pocketdet.errors import ModelFileError
from pocketdet.runtime.backends.backend import INPUT_NAME, expected_channels, output_names, threads_of_a_run


class LiteRtBackend:
    """Runs an exported TFLite file on LiteRT, with XNNPACK.

    Args:
        path: The file.
        threads: By default LiteRT's choice.
        streams: How many runs share them.

    Raises:
        ModelFileError: The file is missing, cut, changed or not exported by pocketdet.
    """

    def __init__(self, path: str | Path, threads: int | None = None, streams: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._path = path = Path(path)
        if not path.is_file():
            raise ModelFileError(f"{path}: no such model file")
        content = path.read_bytes()
        self.metadata = read_metadata(content, str(path))
        try:
            own = threads_of_a_run(threads, streams)
            interpreters = [Interpreter(model_content=content, num_threads=own) for _ in range(streams)]
            for interpreter in interpreters:
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"{path}: LiteRT cannot read this file as a model ({error}); export it again"
            ) from error
        inputs = interpreters[0].get_input_details()
        outputs = {detail["name"]: detail for detail in interpreters[0].get_output_details()}
        self._check_graph(inputs, outputs)
        self._input = inputs[0]["index"]
        self._idle: SimpleQueue[Any] = SimpleQueue()  # an interpreter is for one thread at a time
        for interpreter in interpreters:
            self._idle.put(interpreter)
        self._outputs = [outputs[name]["index"] for name in output_names(len(self.metadata.strides))]

    def run(self, images: NDArray[np.uint8]) -> list[LevelLogits]:
        """See ``Backend.run``; the file takes one picture at a time.

        Raises:
            ModelFileError: The pictures are not of the network's size.
        """
        try:
            parts = [np.concatenate(pictures) for pictures in zip(*map(self._run_one, images), strict=True)]
        except (ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"{self._path}: the network cannot be run on {images.shape} pixels ({error})"
            ) from error
        return [LevelLogits(*parts[n : n + 3]) for n in range(0, len(parts), 3)]

    def _run_one(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """``(H, W, 3)`` to nine ``(1, C, H, W)``; the file's own order is ``(1, H, W, C)``."""
        interpreter = self._idle.get()
        try:
            interpreter.set_tensor(self._input, image[None])
            interpreter.invoke()
            return [interpreter.get_tensor(index).transpose(0, 3, 1, 2) for index in self._outputs]
        finally:
            self._idle.put(interpreter)

    def _check_graph(self, inputs: list[dict[str, Any]], outputs: dict[str, dict[str, Any]]) -> None:
        """The graph must be the one that the metadata describe, else boxes would be wrong in silence."""
        if [(detail["name"], detail["dtype"]) for detail in inputs] != [(INPUT_NAME, np.uint8)]:
            raise ModelFileError(f"{self._path}: expected one uint8 input named '{INPUT_NAME}'; export the file again")
        names = output_names(len(self.metadata.strides))
        for name, expected in zip(names, expected_channels(self.metadata), strict=True):
            found = outputs[name]["shape"].tolist() if name in outputs else None
            if found is None or found[-1] != expected or outputs[name]["dtype"] != np.float32:
                raise ModelFileError(
                    f"{self._path}: output '{name}' has the shape {found}, but anchors and classes of its metadata "
                    f"ask for {expected} channels in float32; the file was changed: export it again"
                )
