"""What box voting gains: AP of a detector with it and with what NMS alone leaves, on the same raw outputs.

python benchmarks/voting.py voc12-animals --model animals --split val
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketdet.core import decode
from pocketdet.core.decode import Decoded, Floats, Nms
from pocketdet.datasets.load import load_dataset
from pocketdet.evaluation import Evaluation, evaluate
from pocketdet.loading import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a data set")
    parser.add_argument("--model", nargs="+", default=["animals", "animals-small"], help="detectors or files of them")
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()

    print(f"{'':24}{'AP':>8}{'AP50':>8}{'AP75':>8}")
    for name in arguments.model:
        detector = load(name)
        dataset = load_dataset(arguments.data, (arguments.split,), detector.class_names)
        with_vote = evaluate(detector.predict_record, dataset)
        decode.vote, vote = _no_vote, decode.vote
        without = evaluate(detector.predict_record, dataset)
        decode.vote = vote
        _print_row(f"{Path(name).name}, NMS alone", without)
        _print_row(f"{Path(name).name}, vote", with_vote)


def _no_vote(candidates: Decoded, keep: NDArray[np.int64], iou_threshold: float, nms: Nms = "iou") -> Floats:
    boxes: Floats = candidates.boxes[keep]
    return boxes


def _print_row(label: str, result: Evaluation) -> None:
    print(f"{label:24}{100 * result.ap:8.1f}{100 * result.ap50:8.1f}{100 * result.ap75:8.1f}")


if __name__ == "__main__":
    main()
