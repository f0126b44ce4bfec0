import json

import numpy as np
import pytest
from PIL import Image

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")

from pocketdet.core.detections import Detections  # noqa: E402
from pocketdet.distributed.coco import write_coco  # noqa: E402
from pocketdet.distributed.shards import begin_job, cut, open_list, read_parts, read_shard, write_part  # noqa: E402
from pocketdet.errors import DataError, ImageError, SettingsError  # noqa: E402

FOUND = Detections(
    np.array([[1, 2, 30.5, 40]], np.float32), np.array([0.75], np.float32), np.array([1]), ("red", "blue"), (60, 80)
)


def test_shards_are_read_across_row_groups(tmp_path):
    names = [f"{n}.jpg" for n in range(23)]
    pyarrow.parquet.write_table(pyarrow.table({"path": names}), tmp_path / "list.parquet", row_group_size=5)
    shards = cut(tmp_path / "list.parquet", 7)
    assert [(shard.start, shard.stop) for shard in shards] == [(0, 7), (7, 14), (14, 21), (21, 23)]
    assert [read_shard(tmp_path / "list.parquet", shard) for shard in shards] == [
        names[:7], names[7:14], names[14:21], names[21:],
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_lists_may_be_of_paths_or_objects(tmp_path, suffix):
    entries = ["a.jpg", {"path": "b.jpg", "camera": 3}]
    text = json.dumps(entries) if suffix == ".json" else "\n".join(json.dumps(entry) for entry in entries)
    (tmp_path / f"list{suffix}").write_text(text)
    pictures = open_list(tmp_path / f"list{suffix}", tmp_path / "job")
    assert read_shard(pictures, cut(pictures, 10)[0]) == ["a.jpg", "b.jpg"]


def test_a_job_that_goes_on_keeps_its_list(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    open_list(tmp_path, tmp_path / "job")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    pictures = open_list(tmp_path, tmp_path / "job")
    assert read_shard(pictures, cut(pictures, 10)[0]) == [str(tmp_path / "a.png")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.json", "[]", "the list is empty"),
        ("list.json", "[3]", "entry 0 is 3; expected a path"),
        ("list.jsonl", '{"file": "a.jpg"}', "entry 0 is .*an object with a 'path'"),
        ("list.json", "{", "cannot be read as a list of pictures"),
        ("list.parquet", "text", "cannot be read as a Parquet file"),
    ],
)
def test_a_bad_list_is_an_error(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        open_list(tmp_path / name, tmp_path / "job")


def test_a_parquet_list_without_paths_is_an_error(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"file": ["a"]}), tmp_path / "list.parquet")
    with pytest.raises(DataError, match="has no column 'path'; it has file"):
        open_list(tmp_path / "list.parquet", tmp_path)


def test_parts_give_back_what_was_written(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a", "b"]}), tmp_path / "list.parquet")
    (shard,) = cut(tmp_path / "list.parquet", 5)
    write_part(shard.part(tmp_path), [("a", FOUND), ("b", ImageError("b: cut"))])
    first, second = read_parts(tmp_path, [shard])
    assert first == {
        "path": "a", "error": None, "height": 60, "width": 80, "class_ids": [1], "scores": [0.75],
        "boxes": [[1.0, 2.0, 30.5, 40.0]],
    }  # fmt: skip
    assert (second["error"], second["boxes"]) == ("b: cut", None)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["part-00000000.parquet"]


def test_a_part_of_another_length_is_an_error(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a", "b"]}), tmp_path / "list.parquet")
    (shard,) = cut(tmp_path / "list.parquet", 5)
    write_part(shard.part(tmp_path), [("a", FOUND)])
    with pytest.raises(DataError, match="has 1 rows instead of 2; remove it"):
        list(read_parts(tmp_path, [shard]))


def test_a_folder_keeps_to_its_job(tmp_path):
    begin_job(tmp_path, {"model": "animals", "score_threshold": 0.3})
    begin_job(tmp_path, {"model": "animals", "score_threshold": 0.3})
    with pytest.raises(SettingsError, match=r"another job \(score_threshold was 0.3 and is 0.5\); choose"):
        begin_job(tmp_path, {"model": "animals", "score_threshold": 0.5})


def test_coco_json_is_read_by_cocos_own_reader(tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    none = {"height": 60, "width": 80, "class_ids": [], "scores": [], "boxes": [], "error": None}
    rows = [
        {"path": "a", "error": None, "height": 60, "width": 80, "class_ids": [1, 0], "scores": [0.75, 0.5],
         "boxes": [[1, 2, 31, 42], [0, 0, 10, 10]]},
        {"path": "b", "error": "cut", "height": None, "width": None, "class_ids": None, "scores": None, "boxes": None},
        {"path": "c"} | none,
    ]  # fmt: skip
    write_coco(rows, ("red", "blue"), tmp_path / "found.json")
    read = coco.COCO(str(tmp_path / "found.json"))
    assert [image["file_name"] for image in read.loadImgs([1, 2])] == ["a", "c"]
    first = read.loadAnns(read.getAnnIds(imgIds=[1]))[0]
    assert (first["bbox"], first["category_id"], first["score"], first["area"]) == ([1, 2, 30, 40], 2, 0.75, 1200)
    assert [category["name"] for category in read.loadCats([1, 2])] == ["red", "blue"]
    assert {path.name for path in tmp_path.iterdir()} == {"found.json"}
