"""Runs a detector over shards of pictures on the machines of a Ray cluster."""

import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pocketdet.distributed.coco import write_coco
from pocketdet.distributed.shards import (
    FAILURES,
    Shard,
    begin_job,
    cut,
    open_list,
    read_parts,
    read_shard,
    write_part,
    write_text,
)  # fmt: skip
from pocketdet.errors import ImageError, MissingExtraError, SettingsError
from pocketdet.loading import bundled_models, find_checkpoint, load

SHARD_SIZE = 1000  # pictures: half a minute of a core, which is what a killed worker loses
LOCAL = "local"


@dataclasses.dataclass(frozen=True)
class Summary:
    """What became of a job.

    Args:
        pictures: All of them.
        failures: Those that could not be read; they are listed in ``failures.jsonl``.
        shards: Into which the list was cut.
        done_before: Shards that were there already.
        results: The folder of the Parquet parts, or the COCO JSON file.
    """

    pictures: int
    failures: int
    shards: int
    done_before: int
    results: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    def to_text(self) -> str:
        """A line or two."""
        text = f"{self.pictures} pictures in {self.shards} shards, {self.done_before} of them done before\n"
        return f"{text}{self.failures} could not be read; results are in {self.results}"


def detect_pictures(
    source: str | Path,
    output: str | Path,
    address: str = LOCAL,
    *,
    model: str = "animals",
    score_threshold: float = 0.3,
    iou_threshold: float = 0.5,
    shard_size: int = SHARD_SIZE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Find objects in all pictures of a list; a job that was stopped goes on where it was.

    Source, output and model lie where all machines see them under the same path, and pocketdet is installed on each.
    Every shard of the list is a task; its results are one file, written once it is complete. A worker that dies loses
    its shard only, which Ray gives to another.

    Args:
        source: A folder or pattern of pictures, a ``.json`` or ``.jsonl`` list of paths, or a ``.parquet`` file with a
            column ``path``.
        output: A folder, which gets ``parts/*.parquet``; or a ``.json`` file, COCO's format, with the parts beside it.
        address: Of the cluster, such as ``ray://head:10001`` or ``auto``; ``local`` starts Ray on this machine.
        model: As ``load`` takes it.
        score_threshold: Only detections with a score above this, 0 to 1.
        iou_threshold: Boxes of one class that overlap more than this are one object, 0 to 1.
        shard_size: Pictures a task.
        progress: Is told how many pictures of how many are done.

    Raises:
        SettingsError: The output has results of another job.
        DataError: The list cannot be used.
        MissingExtraError: Ray is not installed.
    """
    _require_ray()
    if shard_size < 1:
        raise SettingsError(f"shard_size is {shard_size}; it must be at least 1")
    output = Path(output).absolute()
    is_coco = output.suffix.lower() == ".json"
    folder = output.with_name(f"{output.stem}-parts") if is_coco else output
    predictor = load(model, threads=1)  # also finds out here, and not on a hundred machines, that it cannot be used
    pictures = open_list(source, folder).absolute()
    facts = {
        "pictures": str(pictures), "model": model, "model_sha256": _hash(model), "score_threshold": score_threshold,
        "iou_threshold": iou_threshold, "shard_size": shard_size, "class_names": list(predictor.class_names),
    }  # fmt: skip
    begin_job(folder, facts)
    shards = cut(pictures, shard_size)
    missing = [shard for shard in shards if not shard.part(folder).exists()]
    work = {"pictures": str(pictures), "folder": str(folder), "model": model,
            "thresholds": (score_threshold, iou_threshold)}  # fmt: skip
    total = shards[-1].stop
    done = total - sum(shard.stop - shard.start for shard in missing)
    progress(done, total)
    for count in _run(missing, work, address):
        done += count
        progress(done, total)
    failures = _list_failures(folder, shards)
    if is_coco:
        write_coco(read_parts(folder, shards), predictor.class_names, output)
    return Summary(total, failures, len(shards), len(shards) - len(missing), str(output))


class ShardDetector:
    """One worker: a detector that takes shards.

    Args:
        pictures: The list.
        folder: Of the job.
        model: As ``load`` takes it.
        thresholds: Of scores and overlaps.
    """

    def __init__(self, pictures: str, folder: str, model: str, thresholds: tuple[float, float]) -> None:
        self._pictures, self._folder, self._thresholds = Path(pictures), Path(folder), thresholds
        self._predictor = load(model, threads=1)  # a worker a core

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Work on one shard, unless it is done; tells how many pictures it has."""
        shard = Shard(int(row["number"]), int(row["start"]), int(row["stop"]))
        part = shard.part(self._folder)
        if not part.exists():
            write_part(part, [(name, self._detect(name)) for name in read_shard(self._pictures, shard)])
        return {"count": shard.stop - shard.start}

    def _detect(self, name: str) -> Any:
        try:
            return self._predictor.predict(name, *self._thresholds)
        except ImageError as error:
            return error


def _run(shards: list[Shard], work: dict[str, Any], address: str) -> Any:
    """Yields the pictures of each shard that is done."""
    if not shards:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry without being asked
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import ray.data

    cluster: Any = ray  # its types are incomplete

    ours = not ray.is_initialized()
    if ours:
        ray.init(None if address == LOCAL else address, include_dashboard=None if address != LOCAL else False,
                 log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = ray.data.from_items([shard._asdict() for shard in shards], override_num_blocks=len(shards))
        worker: Any = ShardDetector
        cores = max(1, int(cluster.cluster_resources().get("CPU", 1)))
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=min(cores, len(shards)), max_tasks_in_flight_per_actor=1)
        counts = rows.map(worker, fn_constructor_kwargs=work, compute=pool, num_cpus=1)
        for row in counts.iter_rows():
            yield int(row["count"])
    finally:
        if ours:
            ray.shutdown()


def _list_failures(folder: Path, shards: list[Shard]) -> int:
    """Write and count the pictures that could not be read."""
    rows = [row for row in read_parts(folder, shards, ["path", "error"]) if row["error"] is not None]
    write_text(folder / FAILURES, "".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def _hash(model: str) -> str:
    bundled = bundled_models()
    if model in bundled:
        return bundled[model]["sha256"]
    path = find_checkpoint(model) if Path(model).is_dir() else Path(model)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _require_ray() -> None:
    missing = [name for name in ("ray", "pyarrow") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f'--ray needs {", ".join(missing)}, not installed here; run: pip install "pocketdet[ray]"'
        )
