"""A real Ray on this machine, in a process of its own: two workers, one of which is killed in the middle of a shard."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pocketdet.runtime.backends import OnnxBackend
from pocketdet.runtime.predictor import Predictor

pytest.importorskip("ray")
parquet = pytest.importorskip("pyarrow.parquet")

DRIVER = """
import json, os, signal, sys
from pathlib import Path
import ray
from pocketdet.distributed import detect_pictures

def die_once():  # runs in each worker: the first one that comes to this picture dies there, in the middle of its shard
    from pocketdet.distributed.detect import ShardDetector
    detect = ShardDetector._detect
    def detect_or_die(self, name):
        died = self._folder / "died"
        if self._folder.name == "found" and name.endswith("/10.png") and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return detect(self, name)
    ShardDetector._detect = detect_or_die

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
         runtime_env={"worker_process_setup_hook": die_once})
for output in sys.argv[3:]:
    summary = detect_pictures(sys.argv[1], output, model=sys.argv[2], shard_size=20)
    print(json.dumps(summary.to_dict()), flush=True)
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory, tiny_model):
    """60 bright squares, some pictures twice in the list, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("many")
    random = np.random.default_rng(0)
    names = []
    for n in range(60):
        pixels = np.zeros((256, 256, 3), np.uint8)
        top, left = random.integers(0, 8, 2) * 32
        pixels[top : top + 32, left : left + 32, 2 * (n % 2)] = 255
        Image.fromarray(pixels).save(folder / f"{n}.png", compress_level=1)
        names.append(str(folder / f"{n}.png"))
    names = names * 3
    names[33] = str(folder / "gone.png")
    (folder / "list.json").write_text(json.dumps(names))
    return folder, names, tiny_model


@pytest.fixture(scope="module")
def finished(job):
    """The job with a worker killed in the middle of a shard, then asked for again, as COCO too."""
    folder, _, model = job
    outputs = [folder / "found", folder / "found", folder / "coco.json"]
    command = [sys.executable, "-c", DRIVER, str(folder / "list.json"), str(model), *map(str, outputs)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=240,
                             env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"})  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]


def rows_of(folder):
    parts = sorted((folder / "found" / "parts").glob("part-*.parquet"))
    return [row for part in parts for row in parquet.read_table(part).to_pylist()]


def test_a_killed_worker_loses_and_doubles_nothing(job, finished):
    folder, names, _ = job
    assert (folder / "found" / "died").exists()
    assert [row["path"] for row in rows_of(folder)] == names
    assert finished[0] == {
        "pictures": 180, "failures": 1, "shards": 9, "done_before": 0, "results": str(folder / "found"),
    }  # fmt: skip


def test_the_results_are_those_of_one_process(job, finished):
    folder, names, model = job
    predictor = Predictor(OnnxBackend(model, threads=1))
    for row, name in zip(rows_of(folder), names, strict=True):
        if name.endswith("gone.png"):
            assert "no such file" in row["error"]
            continue
        found = predictor.predict(name)
        assert len(found) > 0
        assert row["boxes"] == found.boxes.tolist()
        assert row["scores"] == found.scores.tolist()
        assert row["class_ids"] == found.class_ids.tolist()
        assert (row["height"], row["width"]) == found.image_size


def test_what_is_done_is_not_done_again(finished):
    assert finished[1]["done_before"] == 9


def test_failures_are_listed_and_coco_has_the_others(job, finished):
    folder, names, _ = job
    (failure,) = [json.loads(line) for line in (folder / "found" / "failures.jsonl").read_text().splitlines()]
    assert failure["path"] == names[33]
    document = json.loads((folder / "coco.json").read_text())
    assert len(document["images"]) == 179
    assert len(document["annotations"]) == sum(len(row["scores"] or []) for row in rows_of(folder))
