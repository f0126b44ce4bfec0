"""The files of a large job: the list of its pictures, and a part with results for each shard of the list.

A part is written beside its place and then renamed, so that it is there as a whole or not at all, however often a
worker is killed and its shard begun again.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pocketdet.core.detections import Detections
from pocketdet.errors import DataError, ImageError, SettingsError
from pocketdet.runtime.sources import list_pictures

LIST, JOB, PARTS, FAILURES = "pictures.parquet", "job.json", "parts", "failures.jsonl"
COLUMN = "path"
LIST_SUFFIXES = (".parquet", ".json", ".jsonl")


class Shard(NamedTuple):
    """Rows of the list that are one task.

    Args:
        number: From 0.
        start: First row.
        stop: Row after the last.
    """

    number: int
    start: int
    stop: int

    def part(self, folder: Path) -> Path:
        """Its results."""
        return folder / PARTS / f"part-{self.number:08}.parquet"


def open_list(source: str | Path, folder: Path) -> Path:
    """The Parquet file with the paths of all pictures, written into the job's folder unless the source is one.

    Args:
        source: A folder or pattern of pictures, a ``.json`` file with a list of paths, a ``.jsonl`` file with a path or
            an object with a ``path`` a line, or a ``.parquet`` file with a column ``path``.
        folder: Of the job.

    Raises:
        DataError: The list is of another form or empty.
        ImageError: The folder has no pictures.
    """
    import pyarrow
    import pyarrow.parquet

    path = Path(source)
    if path.suffix.lower() == ".parquet":
        if COLUMN not in _parquet(path).schema_arrow.names:
            raise DataError(f"{path}: has no column '{COLUMN}'; it has {', '.join(_parquet(path).schema_arrow.names)}")
        return path
    target = folder / LIST
    if not target.exists():  # a job that goes on keeps its list, whatever came into the folder since
        names = _read_json(path) if path.suffix.lower() in LIST_SUFFIXES else [str(p) for p in list_pictures(source)]
        if not names:
            raise DataError(f"{source}: the list is empty")
        folder.mkdir(parents=True, exist_ok=True)
        _write(pyarrow.table({COLUMN: names}), target)
    return target


def cut(pictures: Path, shard_size: int) -> list[Shard]:
    """The list in shards of so many pictures; the last may be smaller."""
    rows: int = _parquet(pictures).metadata.num_rows
    return [Shard(n, start, min(start + shard_size, rows)) for n, start in enumerate(range(0, rows, shard_size))]


def read_shard(pictures: Path, shard: Shard) -> list[str]:
    """The paths of a shard; of the list only the row groups are read that it lies in."""
    file = _parquet(pictures)
    paths: list[str] = []
    first = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        start, stop = max(shard.start - first, 0), min(shard.stop - first, rows)
        if start < stop:
            column = file.read_row_group(group, columns=[COLUMN]).column(COLUMN)
            paths += column.slice(start, stop - start).to_pylist()
        first += rows
    return paths


def write_part(path: Path, rows: Sequence[tuple[str, Detections | ImageError]]) -> None:
    """The results of a shard.

    Args:
        path: The part.
        rows: In the order of the list: the path of a picture, and what was found or why it could not be read.
    """
    import pyarrow

    found = [None if isinstance(result, ImageError) else result for _, result in rows]
    columns = {
        COLUMN: pyarrow.array([name for name, _ in rows], pyarrow.string()),
        "error": pyarrow.array([str(r) if isinstance(r, ImageError) else None for _, r in rows], pyarrow.string()),
        "height": pyarrow.array([item and item.image_size[0] for item in found], pyarrow.int32()),
        "width": pyarrow.array([item and item.image_size[1] for item in found], pyarrow.int32()),
        "class_ids": _lists([item and item.class_ids.tolist() for item in found], pyarrow.int32()),
        "scores": _lists([item and item.scores.tolist() for item in found], pyarrow.float32()),
        "boxes": _lists([item and item.boxes.tolist() for item in found], pyarrow.list_(pyarrow.float32(), 4)),
    }
    _write(pyarrow.table(columns), path)


def read_parts(folder: Path, shards: Sequence[Shard], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of all parts, in the order of the list.

    Raises:
        DataError: A part is missing or has not as many rows as its shard.
    """
    for shard in shards:
        path = shard.part(folder)
        rows: list[dict[str, Any]] = _parquet(path).read(columns=columns).to_pylist()
        if len(rows) != shard.stop - shard.start:
            raise DataError(f"{path}: has {len(rows)} rows instead of {shard.stop - shard.start}; remove it and go on")
        yield from rows


def begin_job(folder: Path, facts: dict[str, Any]) -> None:
    """Write what the job is, or compare it with what was begun in this folder.

    Raises:
        SettingsError: The folder has results of another job.
    """
    path = folder / JOB
    if not path.exists():
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(facts, indent=1))
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in facts if before.get(name) != facts[name]]
    if changed:
        differences = ", ".join(f"{name} was {before.get(name)} and is {facts[name]}" for name in changed)
        raise SettingsError(f"{folder}: has results of another job ({differences}); choose another folder")


def write_text(path: Path, text: str) -> None:
    """As a whole or not at all."""
    beside = _beside(path)
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _write(table: Any, path: Path) -> None:
    import pyarrow.parquet

    beside = _beside(path)
    pyarrow.parquet.write_table(table, beside, compression="zstd")
    os.replace(beside, path)


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _lists(values: Sequence[Any], of: Any) -> Any:
    import pyarrow

    return pyarrow.array(values, pyarrow.list_(of))


def _parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as a Parquet file ({str(error).splitlines()[0]})") from error


def _read_json(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        is_lines = path.suffix.lower() == ".jsonl"
        entries = [json.loads(line) for line in text.splitlines() if line.strip()] if is_lines else json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a list of pictures ({error})") from error
    names: list[Any] = [entry.get(COLUMN) if isinstance(entry, dict) else entry for entry in entries]
    for n, name in enumerate(names):
        if not isinstance(name, str):
            raise DataError(f"{path}: entry {n} is {entries[n]!r}; expected a path, or an object with a '{COLUMN}'")
    return names
