"""Turn a finished run into a bundled detector: export through the gate, measure on val, write file and bundled.json.

python recipes/bundle.py animals runs/animals --data voc12-animals
"""

import argparse
import dataclasses
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from pocketdet.datasets.load import load_dataset
from pocketdet.evaluation import evaluate
from pocketdet.export import export
from pocketdet.export.onnx_file import update_metadata
from pocketdet.loading import ASSETS, find_checkpoint, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the bundled detector")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--data", type=Path, required=True, help="the data set")
    parser.add_argument("--split", default="val", help="that the run has never seen")
    arguments = parser.parse_args()

    target = ASSETS / f"{arguments.name}.onnx"
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.onnx"
        report = export(
            find_checkpoint(arguments.run), draft, data=arguments.data, split=arguments.split, precision="half"
        )
        print(report.to_text())
        predictor = load(draft)
        dataset = load_dataset(arguments.data, (arguments.split,), predictor.class_names)
        result = evaluate(predictor.predict_record, dataset)
        metrics = predictor.metadata.metrics | {"AP50": round(result.ap50, 4), "AP": round(result.ap, 4)}
        update_metadata(draft, dataclasses.replace(predictor.metadata, metrics=metrics))
        shutil.move(draft, target)
    print(result.to_text())

    listing = ASSETS / "bundled.json"
    bundled = json.loads(listing.read_text(encoding="utf-8"))
    bundled[arguments.name] = {
        "file": target.name,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "recipe": f"recipes/{arguments.name}.md",
        "AP50": round(result.ap50, 4),
        "AP": round(result.ap, 4),
    }
    listing.write_text(json.dumps(bundled, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
