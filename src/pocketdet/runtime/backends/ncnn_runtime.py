"""ncnn's files on ncnn."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import LevelLogits
from pocketdet.core.metadata import ModelMetadata
from pocketdet.core.sidecar import read_sidecar
from pocketdet.errors import ModelFileError
from pocketdet.runtime.backends.backend import INPUT_NAME, expected_channels, output_names, threads_of_a_run


def weights_path(path: Path) -> Path:
    """``model.ncnn.bin`` of ``model.ncnn.param``."""
    return path.with_suffix(".bin")


class NcnnBackend:
    """Runs an exported pair of ncnn files on the CPU, in float32.

    Args:
        path: The ``.ncnn.param`` file; its ``.ncnn.bin`` and its ``.json`` lie beside it.
        threads: By default as many as the machine has cores.
        streams: How many runs share them.

    Raises:
        ModelFileError: A file is missing, cut, changed or not exported by pocketdet.
    """

    def __init__(self, path: Path, threads: int | None = None, streams: int = 1) -> None:
        import ncnn

        self._path = path
        self.metadata: ModelMetadata = read_sidecar(path)
        self._net: Any = ncnn.Net()
        self._to_mat = ncnn.Mat
        options = self._net.opt
        # Where the processor could, ncnn would round between its layers; float32 is what the gate measures.
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_packed = options.use_bf16_storage = False
        if (own := threads_of_a_run(threads, streams)) is not None:
            options.num_threads = own
        if self._net.load_param(str(path)) or self._net.load_model(str(weights_path(path))):
            raise ModelFileError(f"{path}: ncnn cannot read this file as a model; export it again")
        self._names = output_names(len(self.metadata.strides))
        blobs = (self._net.input_names(), self._net.output_names())
        if list(blobs[0]) != [INPUT_NAME] or set(blobs[1]) != set(self._names):
            raise ModelFileError(
                f"{path}: expected the blobs {INPUT_NAME} and {', '.join(self._names)}, the model has "
                f"{', '.join([*blobs[0], *blobs[1]])}; export it again"
            )

    def run(self, images: NDArray[np.uint8]) -> list[LevelLogits]:
        """See ``Backend.run``; one picture after the other, as ncnn has no batches.

        Raises:
            ModelFileError: The pictures have another size than the network's input, or ncnn stops.
        """
        expected = (*self.metadata.input_size, 3)
        if images.shape[1:] != expected:
            raise ModelFileError(
                f"{self._path}: the network cannot be run on {images.shape} pixels, only on {expected}"
            )
        pictures = [self._run_one(image) for image in images]
        outputs = [np.stack(parts) for parts in zip(*pictures, strict=True)]
        return [LevelLogits(*outputs[n : n + 3]) for n in range(0, len(outputs), 3)]

    def _run_one(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        # A name of its own keeps the memory alive: ncnn.Mat only points to it.
        planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
        extractor = self._net.create_extractor()
        extractor.input(INPUT_NAME, self._to_mat(planes))
        outputs = []
        for name, channels in zip(self._names, expected_channels(self.metadata), strict=True):
            failed, mat = extractor.extract(name)
            logits = np.array(mat)
            if failed or logits.ndim != 3 or len(logits) != channels:
                raise ModelFileError(
                    f"{self._path}: ncnn gives {logits.shape} for '{name}', expected {channels} channels; "
                    "export it again"
                )
            outputs.append(logits)
        return outputs
