"""Which layers of a TFLite network compute in float: chosen by what each of them costs the scores."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import Floats, sigmoid
from pocketdet.export.tflite_graph import read_graph
from pocketdet.export.tflite_int8 import Statistics, excitations, quantise

PICTURES = 6
TARGET = 0.07  # error of the scores, relative: a guess; at 0.09 V2 lost 1.1 points of AP50 on voc12-animals
MOST = 8  # blocks in float; more would be no int8 file any more
MIN_GAIN = 0.01  # of the error, relative


def quantise_best(
    content: bytes, statistics: Statistics, pictures: NDArray[np.uint8], tell: Callable[[str], None]
) -> bytes:
    """The quantised network, with as few blocks of the backbone in float as bring its scores near enough.

    Args:
        content: In float, its tensors named by ``name_tensors``.
        statistics: Of it.
        pictures: ``(N, H, W, 3)``; a few of them are compared on.
        tell: Takes what was chosen and why.
    """
    some = pictures[:: -(-len(pictures) // PICTURES)]
    truth = _scores(content, some)
    in_float = excitations(content)
    if in_float:
        tell(f"{len(in_float)} squeeze-and-excitations compute in float")

    def attempt(blocks: list[str]) -> tuple[float, bytes]:
        result = quantise(content, statistics, [*in_float, *(rf"^{re.escape(block)}[.:]" for block in blocks)])
        return _error(truth, _scores(result, some)), result

    error, best = attempt([])
    tell(f"error of the scores {error:.3f} of their size, all else in integers; aimed at: {TARGET}")
    if error <= TARGET:
        return best
    alone = sorted((attempt([block])[0], block) for block in _blocks(content))
    chosen: list[str] = []
    for _, block in alone[:MOST]:
        lower, result = attempt([*chosen, block])
        if lower < error * (1 - MIN_GAIN):
            tell(f"  {block} in float: {error:.3f} -> {lower:.3f}")
            chosen.append(block)
            error, best = lower, result
        if error <= TARGET:
            break
    return best


def _blocks(content: bytes) -> list[str]:
    """``backbone.0`` and so on, as they lie in the graph."""
    [graph] = read_graph(content).subgraphs
    names = [graph.tensors[operator.outputs[0]].name.decode() for operator in graph.operators]
    found = [match[0] for name in names if (match := re.match(r"backbone\.\d+", name))]
    return list(dict.fromkeys(found))


def _scores(content: bytes, pictures: NDArray[np.uint8]) -> list[Floats]:
    """Objectness x class probability, of each level of each picture."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    [images], outputs = interpreter.get_input_details(), interpreter.get_output_details()
    offset = 0 if images["dtype"] == np.float32 else 128
    found = []
    for picture in pictures:
        interpreter.set_tensor(images["index"], (picture[None].astype(np.float32) - offset).astype(images["dtype"]))
        interpreter.invoke()
        values = [interpreter.get_tensor(output["index"]) for output in outputs]
        for objectness, classes in zip(values[1::3], values[2::3], strict=True):
            found.append(sigmoid(objectness)[..., None] * sigmoid(classes.reshape(*objectness.shape, -1)))
    return found


def _error(truth: list[Floats], scores: list[Floats]) -> float:
    """Root of the mean square of the difference, over that of the truth."""
    off = sum(float(np.square(a - b).sum()) for a, b in zip(truth, scores, strict=True))
    return float(np.sqrt(off / sum(float(np.square(a).sum()) for a in truth)))
