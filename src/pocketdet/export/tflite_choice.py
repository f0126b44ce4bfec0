"""Which layers of a TFLite network compute in float: chosen by what each of them costs the outputs."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.decode import Floats
from pocketdet.export.int8 import JUDGE_PICTURES, MAX_ERROR, SEARCH_PICTURES, logits_error
from pocketdet.export.tflite_graph import read_graph
from pocketdet.export.tflite_int8 import Statistics, float_layers, quantise
from pocketdet.runtime.backends import INPUT_NAME, output_names

MOST = 8  # blocks in float; more would be no int8 file any more
MIN_GAIN = 0.01  # of the error, relative
BLOCK = r"backbone\.\d+|neck\.\w+|head\.\d+"


def quantise_best(
    content: bytes, statistics: Statistics, pictures: NDArray[np.uint8], tell: Callable[[str], None]
) -> bytes:
    """The quantised network, with as few blocks in float as bring its outputs near enough.

    Args:
        content: In float, its tensors named by ``name_tensors``.
        statistics: Of it.
        pictures: ``(N, H, W, 3)``; a few of them are compared on.
        tell: Takes what was chosen and why.
    """
    in_float = float_layers(content)
    if in_float:
        tell(f"int8: {len(in_float)} squeeze-and-excitations and h-swish compute in float")
    judged = pictures[:: -(-len(pictures) // JUDGE_PICTURES)]
    truth = list(_run(content, judged, statistics))

    def attempt(blocks: list[str], most: int = JUDGE_PICTURES) -> tuple[float, bytes]:
        result = quantise(content, statistics, [*in_float, *(rf"^{re.escape(block)}[.:]" for block in blocks)])
        return logits_error(truth[:most], _run(result, judged[:most], statistics)), result

    error, best = attempt([])
    tell(f"int8: error {error:.3f}, all else in integers (limit {MAX_ERROR})")
    if error <= MAX_ERROR:
        return best
    alone = sorted((attempt([block], SEARCH_PICTURES)[0], block) for block in _blocks(content))
    chosen: list[str] = []
    for _, block in alone[:MOST]:
        lower, result = attempt([*chosen, block])
        if lower < error * (1 - MIN_GAIN):
            tell(f"  {block} in float: {error:.3f} -> {lower:.3f}")
            chosen.append(block)
            error, best = lower, result
        if error <= MAX_ERROR:
            break
    return best


def _blocks(content: bytes) -> list[str]:
    """``backbone.0``, ``neck.reduce_p5``, ``head.2`` and so on, as they lie in the graph."""
    [graph] = read_graph(content).subgraphs
    names = [graph.tensors[operator.outputs[0]].name.decode() for operator in graph.operators]
    return list(dict.fromkeys(match[0] for name in names if (match := re.match(BLOCK, name))))


def _run(content: bytes, pictures: NDArray[np.uint8], statistics: Statistics) -> Iterator[dict[str, Floats]]:
    """Outputs of each picture, ``(1, C, H, W)``."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    [images], outputs = interpreter.get_input_details(), interpreter.get_output_details()
    names = output_names(len(outputs) // 3)
    grey = -statistics.ranges[INPUT_NAME][0] if images["dtype"] == np.float32 else 128
    for picture in pictures:
        interpreter.set_tensor(images["index"], (picture[None].astype(np.float32) - grey).astype(images["dtype"]))
        interpreter.invoke()
        values = (interpreter.get_tensor(output["index"]).transpose(0, 3, 1, 2) for output in outputs)
        yield dict(zip(names, values, strict=True))
