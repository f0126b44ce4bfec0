"""Run an ONNX graph and see the tensors within it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pocketdet.runtime.backends import INPUT_NAME

Floats = NDArray[np.float32]
SWISH_ENDS = 3
SILENT = 4  # ONNX Runtime's log level


def watch(model: onnx.ModelProto, names: Sequence[str], pictures: NDArray[np.uint8]) -> Iterator[dict[str, Floats]]:
    """The named tensors for each of some pictures, ``(N, H, W, 3)``."""
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for picture in pictures:
        yield dict(zip(names, session.run(list(names), {INPUT_NAME: picture[None]}), strict=True))


def measure_peaks(model: onnx.ModelProto, pictures: NDArray[np.uint8]) -> dict[str, Floats]:
    """Of each tensor between the nodes of a float graph, the largest absolute value a channel."""
    layout = ("Transpose", "Cast")
    names = [name for node in model.graph.node for name in node.output if node.op_type not in layout]
    swished = before_swish(model.graph)
    peaks: dict[str, Floats] = {}
    for values in watch(model, names, pictures):
        for name, value in values.items():
            # H-swish turns all below -3 to 0.
            matters = np.maximum(value, -SWISH_ENDS) if name in swished else value
            peak = np.abs(matters).max(axis=(0, 2, 3))
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
    return peaks


def before_swish(graph: onnx.GraphProto) -> set[str]:
    """The tensors that h-swish reads."""
    return {node.input[0] for node in graph.node if node.op_type == "HardSwish"}
