"""ExecuTorch's programs on ExecuTorch."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import LevelLogits
from pocketdet.core.sidecar import read_sidecar
from pocketdet.errors import ModelFileError, SettingsError
from pocketdet.runtime.backends.backend import expected_channels


class ExecuTorchBackend:
    """Runs an exported program on the CPU, with XNNPACK.

    Args:
        path: The ``.pte`` file; its sidecar lies beside it.
        threads: Of one run; by default ExecuTorch's choice. It has one pool of threads a process, so the first program
            decides for all.
        streams: Without effect: one run follows the other.

    Raises:
        ModelFileError: A file is missing, cut, changed or not exported by pocketdet.
        SettingsError: Another program of this process runs on another number of threads.
    """

    _pool: int | None = None  # threads of the process, once a program is loaded

    def __init__(self, path: Path, threads: int | None = None, streams: int = 1) -> None:
        import torch  # ExecuTorch's Python runtime takes and gives its tensors, and has it with it
        from executorch.extension.pybindings import portable_lib

        self._path = path
        self.metadata = read_sidecar(path)
        self._to_tensor = torch.from_numpy
        self._set_threads(threads, portable_lib)
        try:
            self._program: Any = portable_lib._load_for_executorch(str(path))
            facts = self._program.method_meta("forward")
        except RuntimeError as error:
            raise ModelFileError(
                f"{path}: ExecuTorch cannot read this file as a program ({_first_line(error)}); export it again"
            ) from error
        self._check_graph(facts)
        self._one_at_a_time = threading.Lock()  # a program has one set of buffers

    def run(self, images: NDArray[np.uint8]) -> list[LevelLogits]:
        """See ``Backend.run``; the program takes one picture at a time.

        Raises:
            ModelFileError: The pictures have another size than the program's input, or ExecuTorch stops.
        """
        expected = (*self.metadata.input_size, 3)
        if images.shape[1:] != expected:
            raise ModelFileError(
                f"{self._path}: the network cannot be run on {images.shape} pixels, only on {expected}"
            )
        outputs = [np.concatenate(parts) for parts in zip(*map(self._run_one, images), strict=True)]
        return [LevelLogits(*outputs[n : n + 3]) for n in range(0, len(outputs), 3)]

    def _run_one(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        picture = self._to_tensor(np.array(image[None]))  # a copy: torch warns of memory that it may not write to
        try:
            with self._one_at_a_time:
                return [output.numpy() for output in self._program.forward([picture])]  # copies
        except RuntimeError as error:
            raise ModelFileError(f"{self._path}: the network cannot be run ({_first_line(error)})") from error

    def _set_threads(self, threads: int | None, library: Any) -> None:
        """Once, before the first program is loaded: its kernels keep the pool that they find."""
        if ExecuTorchBackend._pool is None:
            if threads is not None:
                library._unsafe_reset_threadpool(threads)
            ExecuTorchBackend._pool = library._threadpool_get_thread_count()
        elif threads not in (None, ExecuTorchBackend._pool):
            raise SettingsError(
                f"{self._path}: {threads} threads are asked for, but ExecuTorch's pool has {ExecuTorchBackend._pool} "
                "in this process, for all its programs; ask for the same number, or run pocketdet once for each"
            )

    def _check_graph(self, facts: Any) -> None:
        """The program must be the one that the metadata describe, else boxes would be wrong in silence."""
        found = [tuple(facts.output_tensor_meta(n).sizes()) for n in range(facts.num_outputs())]
        height, width = self.metadata.input_size
        cells = [(height // stride, width // stride) for stride in self.metadata.strides for _ in LevelLogits._fields]
        expected = [
            (1, channels, *size) for channels, size in zip(expected_channels(self.metadata), cells, strict=True)
        ]
        if found != expected:
            raise ModelFileError(
                f"{self._path}: the outputs have the shapes {found}, but the metadata ask for {expected}: "
                "export the file again"
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
