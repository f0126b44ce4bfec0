import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketdet.datasets.load import list_splits, load_dataset
from pocketdet.errors import AnnotationError, DataError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def content(annotations: list[dict], names: tuple[str, ...] = ("a.jpg",)) -> dict:
    images = [{"id": 100 + n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(names)]
    annotations = [
        {"id": n, "image_id": 100, "category_id": 3, "bbox": [1, 2, 3, 4], **a} for n, a in enumerate(annotations)
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)
    return path


def test_sparse_ids_become_dense_in_their_order_and_xywh_becomes_xyxy(tmp_path):
    picture(tmp_path / "train/a.jpg")
    write(tmp_path / "annotations/train.json", content([{"category_id": 7, "bbox": [2, 3, 10.5, 20]}, {}]))
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.records[0].class_ids.tolist() == [1, 0]
    np.testing.assert_array_equal(dataset.records[0].boxes, [[2, 3, 12.5, 23], [1, 2, 4, 6]])


def test_crowds_are_difficult(tmp_path):
    picture(tmp_path / "train/a.jpg")
    write(tmp_path / "annotations/train.json", content([{"iscrowd": 1}, {"iscrowd": 0}, {}]))
    assert load_dataset(tmp_path).records[0].difficult.tolist() == [True, False, False]


@pytest.mark.parametrize("folder", ["train2017", "images/train2017", "images", "."])
def test_cocos_own_names_are_a_split_and_other_annotations_are_not(tmp_path, folder):
    path = picture(tmp_path / folder / "a.jpg")
    for kind in ("instances", "person_keypoints", "captions"):
        write(tmp_path / f"annotations/{kind}_train2017.json", content([{}]))
    assert list_splits(tmp_path) == {"train2017": 1}
    (record,) = load_dataset(tmp_path, ("train",)).records
    assert record.path.samefile(path)


def test_roboflows_folders_are_splits(tmp_path):
    for split in ("train", "valid", "test"):
        picture(tmp_path / split / "a.jpg")
        write(tmp_path / split / "_annotations.coco.json", content([{}]))
    assert list_splits(tmp_path) == {"test": 1, "train": 1, "valid": 1}
    (record,) = load_dataset(tmp_path, ("val",)).records
    assert record.path == tmp_path / "valid/a.jpg"
    (record,) = load_dataset(tmp_path / "test/_annotations.coco.json", ("test",)).records
    assert record.path == tmp_path / "test/a.jpg"


def test_one_file_is_one_split_of_its_name(tmp_path):
    path = picture(tmp_path / "images/a.jpg")
    file = write(tmp_path / "annotations/instances_holiday.json", content([{}]))
    assert load_dataset(file, ("holiday",)).records[0].path == path
    with pytest.raises(DataError, match=r"no split 'train'.*it has: holiday"):
        load_dataset(file)


def test_a_picture_without_annotations_is_a_negative_and_what_lacks_its_other_half_is_named(tmp_path):
    picture(tmp_path / "images/a.jpg")
    write(tmp_path / "annotations/train.json", content([{"image_id": 999}], names=("a.jpg", "lost.jpg")))
    dataset = load_dataset(tmp_path)
    assert [len(record.boxes) for record in dataset.records] == [0]
    assert "annotations[0] (cat): no picture has its image_id, 999" in dataset.skipped[0]
    assert "lost.jpg: no such file" in dataset.skipped[1]


def test_boxes_without_area_or_outside_are_named(tmp_path):
    picture(tmp_path / "images/a.jpg")
    boxes = [[0, 0, 0, 5], [50, 0, 5, 5], [35, 25, 10, 10]]
    write(tmp_path / "annotations/train.json", content([{"bbox": box} for box in boxes]))
    dataset = load_dataset(tmp_path)
    np.testing.assert_array_equal(dataset.records[0].boxes, [[35, 25, 40, 30]])
    assert "annotations[0] (cat): its box has no area" in dataset.skipped[0]
    assert "annotations[1] (cat): its box 50, 0, 55, 5 is outside the picture, 40 x 30" in dataset.skipped[1]


def test_splits_with_different_categories_are_not_mixed(tmp_path):
    picture(tmp_path / "images/a.jpg")
    write(tmp_path / "annotations/train.json", content([{}]))
    write(tmp_path / "annotations/val.json", content([{}]) | {"categories": [{"id": 3, "name": "cow"}]})
    with pytest.raises(DataError, match=r"different classes.*train: cat, dog; val: cow"):
        load_dataset(tmp_path, ("train", "val"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"images": [],\n "annotations": [}', r"train\.json:2: not valid JSON \(.*column 18"),
        ({"images": []}, r"train\.json: has no list 'annotations'; COCO's JSON holds"),
        ([], r"train\.json: has no list 'images'"),
        (content([{"bbox": None}]), r"train\.json: annotations\[0\] has no 'bbox'"),
        (content([{"bbox": [1, 2, 3]}]), r"annotations\[0\]: bbox is \[1, 2, 3\]; expected four numbers"),
        (content([{"bbox": [1, 2, 3, float("nan")]}]), r"annotations\[0\]: bbox is .*nan"),
        (content([{"bbox": [1, 2, 3, 10**400]}]), r"annotations\[0\]: bbox is"),
        (
            content([{}, {"category_id": 5}]),
            r"annotations\[1\]: category_id 5 is unknown; the file lists: 3 cat, 7 dog",
        ),
        (content([{"image_id": [1]}]), r"annotations\[0\]: 'image_id' is \[1\]"),
        (content([]) | {"images": [{"id": 1}]}, r"images\[0\] has no 'file_name'"),
        (
            content([]) | {"images": [{"id": 1, "file_name": "a.jpg"}] * 2},
            r"images\[1\]: another picture has the same id, 1",
        ),
        (content([]) | {"categories": [{"id": "x", "name": "cat"}]}, r"not all integers"),
        (content([]) | {"categories": [{"id": 1}]}, r"categories\[0\] has no 'name'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, value, message):
    picture(tmp_path / "images/a.jpg")
    write(tmp_path / "annotations/train.json", value)
    with pytest.raises(AnnotationError, match=message):
        load_dataset(tmp_path)


@pytest.mark.parametrize("is_split", [False, True])
def test_model_makers_folder_is_read_without_its_background(tmp_path, is_split):
    value = content([{"bbox": [2, 3, 4, 5]}])
    value["categories"] = [{"id": 0, "name": "background"}, *CATEGORIES]
    for split in ("train", "validation") if is_split else (".",):
        picture(tmp_path / split / "images/a.jpg")
        write(tmp_path / split / "labels.json", value)
    assert list_splits(tmp_path) == ({"train": 1, "validation": 1} if is_split else {"train": 1})
    dataset = load_dataset(tmp_path, ("val",) if is_split else ("train",))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.records[0].class_ids.tolist() == [0]


def test_a_background_with_objects_is_a_class(tmp_path):
    value = content([{"category_id": 0}])
    value["categories"] = [{"id": 0, "name": "background"}, *CATEGORIES]
    picture(tmp_path / "images/a.jpg")
    write(tmp_path / "labels.json", value)
    assert load_dataset(tmp_path).class_names == ("background", "cat", "dog")
