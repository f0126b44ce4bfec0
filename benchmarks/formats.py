"""Formats side by side, as the table in README has them: AP50, time by ONNX Runtime's in float, size.

    for model in animals animals-small; do
      pocketdet export $model --output $model.onnx
      pocketdet export $model --format openvino --output $model.xml
      pocketdet export $model --format openvino --half --output $model-half.xml
      pocketdet export $model --int8 --data voc12-animals --output $model-int8.onnx
      pocketdet export $model --format openvino --int8 --data voc12-animals --allow-drift --output $model-int8.xml
      pocketdet export $model --format ncnn --output $model.ncnn.param
      pocketdet export $model --format ncnn --half --output $model-half.ncnn.param
      pocketdet export $model --format tflite --int8 --data voc12-animals --output $model-int8.tflite  # docs/tflite.md
    done
    python benchmarks/formats.py voc12-animals animals.onnx animals.xml animals-half.xml animals.ncnn.param ...

The first file is what the other times are divided by. AP50 is of the pictures that the export gate takes: at most
200 of the split, evenly spread.
"""

import argparse
from pathlib import Path

from pocketdet.benchmark import run_benchmark
from pocketdet.export.convert import load_gate_pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--split", default="val")
    parser.add_argument("--rounds", type=int, default=15)
    wishes = parser.parse_args()

    result = run_benchmark(
        wishes.files, rounds=wishes.rounds, dataset=lambda names: load_gate_pictures(wishes.data, wishes.split, names)
    )
    print("| file | backbone | precision | AP50 | time | MB |\n|---|---|---|---|---|---|")
    for row in result.rows:
        ratio = row.median_ms / result.rows[0].median_ms
        name = Path(row.model).name
        accuracy = f"{100 * (row.ap50 or 0):.1f}"
        print(f"| `{name}` | {row.backbone} | {row.precision} | {accuracy} | {ratio:.2f} | {row.num_bytes / 1e6:.1f} |")


if __name__ == "__main__":
    main()
