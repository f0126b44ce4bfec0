import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from pocketdet.datasets.load import list_splits, load_dataset
from pocketdet.datasets.records import Dataset
from pocketdet.errors import AnnotationError, DataError

NAMES = ("cat", "dog", "zebra")
CATEGORY_IDS = (2, 17, 90)  # sparse, as COCO's are
Boxes = list[tuple[int, int, int, int, int]]  # class id, then xyxy
CONTENT: dict[str, dict[str, Boxes]] = {
    "train": {"a": [(0, 0, 0, 64, 32), (2, 8, 4, 24, 20)], "b": [], "c": [(1, 1, 1, 63, 31)]},
    "val": {"d": [(2, 10, 10, 12, 30), (0, 3, 2, 50, 25)]},
}
WIDTH, HEIGHT = 64, 32


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), "olive").save(path)


def write_voc(root: Path) -> None:
    for split, pictures in CONTENT.items():
        write(root / f"ImageSets/Main/{split}.txt", "\n".join(pictures))
        for name, boxes in pictures.items():
            write_picture(root / f"JPEGImages/{name}.jpg")
            objects = "".join(
                f"<object><name>{NAMES[k]}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
                f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
                for k, x0, y0, x1, y1 in boxes
            )
            write(root / f"Annotations/{name}.xml", f"<annotation>{objects}</annotation>")


def write_coco(root: Path) -> None:
    categories = [{"id": number, "name": name} for number, name in zip(CATEGORY_IDS, NAMES, strict=True)]
    for split, pictures in CONTENT.items():
        images, annotations = [], []
        for number, (name, boxes) in enumerate(pictures.items()):
            write_picture(root / split / f"{name}.jpg")
            images.append({"id": 1000 - number, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
            annotations += [
                {"image_id": 1000 - number, "category_id": CATEGORY_IDS[k], "bbox": [x0, y0, x1 - x0, y1 - y0]}
                for k, x0, y0, x1, y1 in boxes
            ]
        annotations = [
            annotation | {"id": number, "iscrowd": 0, "area": 1} for number, annotation in enumerate(annotations, 1)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write(root / f"annotations/instances_{split}.json", json.dumps(content))


def write_yolo(root: Path) -> None:
    write(root / "data.yaml", f"train: images/train\nval: images/val\nnames: {json.dumps(NAMES)}\n")
    for split, pictures in CONTENT.items():
        for name, boxes in pictures.items():
            write_picture(root / f"images/{split}/{name}.jpg")
            lines = [
                f"{k} {(x0 + x1) / 2 / WIDTH} {(y0 + y1) / 2 / HEIGHT} {(x1 - x0) / WIDTH} {(y1 - y0) / HEIGHT}"
                for k, x0, y0, x1, y1 in boxes
            ]
            write(root / f"labels/{split}/{name}.txt", "\n".join(lines))


WRITERS = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}


@pytest.fixture(params=WRITERS)
def folder(request, tmp_path) -> Path:
    """The same content in one of the three layouts."""
    WRITERS[request.param](tmp_path)
    return tmp_path


def plain(dataset: Dataset) -> dict[str, list[tuple[int | float, ...]]]:
    return {
        record.path.stem: [(int(k), *map(float, box)) for k, box in zip(record.class_ids, record.boxes, strict=True)]
        for record in dataset.records
    }


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_three_layouts_read_to_the_same_records(folder, split):
    dataset = load_dataset(folder, (split,))
    assert plain(dataset) == CONTENT[split]
    assert dataset.class_names == NAMES
    assert dataset.skipped == ()
    assert all(record.path.is_file() for record in dataset.records)


def test_splits_are_listed_and_read_one_after_the_other(folder):
    assert list_splits(folder) == {"train": 3, "val": 1}
    dataset = load_dataset(folder, ("val", "train"))
    assert plain(dataset) == CONTENT["val"] | CONTENT["train"]
    assert [record.path.stem for record in dataset.records] == ["d", "a", "b", "c"]


def test_a_split_named_twice_is_read_once(folder):
    assert len(load_dataset(folder, ("val", "valid", "val")).records) == 1


def test_asked_for_classes_come_in_the_order_asked_for_and_others_are_counted(folder):
    dataset = load_dataset(folder, ("train",), classes=("zebra", "cat"))
    assert dataset.class_names == ("zebra", "cat")
    assert plain(dataset) == {"a": [(1, 0, 0, 64, 32), (0, 8, 4, 24, 20)], "b": [], "c": []}
    assert dataset.skipped == (f"{folder}: 1 boxes of classes that were not asked for: dog 1",)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("zebre", r"no class 'zebre'; did you mean 'zebra'\? The labels have: cat, dog, zebra"),
        ("Cat", r"no class 'Cat'; did you mean 'cat'\?"),
        ("locomotive", r"no class 'locomotive'\. The labels have: cat, dog, zebra"),
    ],
)
def test_an_unknown_class_is_refused_with_what_there_is(folder, wanted, message):
    with pytest.raises(DataError, match=message):
        load_dataset(folder, classes=("dog", wanted))


def test_a_class_asked_for_twice_is_refused(folder):
    with pytest.raises(DataError, match="'cat' is listed twice"):
        load_dataset(folder, classes=("cat", "cat"))


@pytest.mark.parametrize("split", ["valid", "validation", "VAL"])
def test_val_goes_by_other_names(folder, split):
    assert len(load_dataset(folder, (split,)).records) == 1


@pytest.mark.parametrize("split", ["test", "trainval", ""])
def test_an_unknown_split_is_refused_with_what_there_is(folder, split):
    with pytest.raises(DataError, match=rf"no split '{split}'.*it has: train, val"):
        load_dataset(folder, (split,))


def test_no_split_at_all_is_refused(folder):
    with pytest.raises(DataError, match="no split was asked for; it has: train, val"):
        load_dataset(folder, ())


def test_a_year_decides_only_where_it_must(tmp_path):
    for split in ("train2014", "train2017", "val2017"):
        write_picture(tmp_path / f"images/{split}/a.jpg")
        write(tmp_path / f"labels/{split}/a.txt", "0 0.5 0.5 0.5 0.5")
    assert len(load_dataset(tmp_path, ("valid",)).records) == 1
    assert len(load_dataset(tmp_path, ("train2014",)).records) == 1
    with pytest.raises(DataError, match="more than one that could be meant; it has: train2014, train2017, val2017"):
        load_dataset(tmp_path, ("train",))


def test_a_folder_of_no_layout_is_refused_with_a_description_of_all_three(tmp_path):
    write_picture(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"(?s)not a data set.*VOC:.*COCO:.*YOLO:"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="not a data set"):
        list_splits(tmp_path / "a.jpg")


def test_a_missing_folder_is_refused_by_its_name(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        load_dataset(tmp_path / "nowhere")


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(tmp_path / ("x" * 5000))
    write(tmp_path / "data.yaml", f"train: {'y' * 5000}\nnames: [cat]")
    with pytest.raises(DataError, match="cannot be read"):
        list_splits(tmp_path)


def test_a_listed_name_that_no_file_can_have_is_skipped_by_name(tmp_path):
    write_voc(tmp_path)
    write(tmp_path / "ImageSets/Main/train.txt", "a\n" + "x" * 5000)
    (line,) = load_dataset(tmp_path).skipped
    assert "no such picture, but 'train' lists it" in line


def test_a_list_in_utf16_is_refused_with_the_way_out(tmp_path):
    write_voc(tmp_path)
    path = tmp_path / "ImageSets/Main/train.txt"
    path.write_text("a\nb\n", "utf-16")
    with pytest.raises(AnnotationError, match=r"train\.txt: not text in UTF-8 .*; save it as UTF-8"):
        load_dataset(tmp_path)


def test_labels_without_any_object_are_refused(tmp_path):
    write_picture(tmp_path / "images/train/a.jpg")
    write(tmp_path / "labels/train/a.txt", "")
    with pytest.raises(DataError, match="name no class at all"):
        load_dataset(tmp_path)


def test_coco_files_read_as_pycocotools_reads_them(tmp_path, capsys):
    write_coco(tmp_path)
    theirs = COCO(tmp_path / "annotations/instances_train.json")
    dataset = load_dataset(tmp_path)
    assert [category["name"] for category in theirs.loadCats(sorted(theirs.getCatIds()))] == list(dataset.class_names)
    by_name = {Path(image["file_name"]).stem: image["id"] for image in theirs.loadImgs(theirs.getImgIds())}
    dense = {category_id: number for number, category_id in enumerate(sorted(theirs.getCatIds()))}
    for record in dataset.records:
        annotations = theirs.loadAnns(theirs.getAnnIds(by_name[record.path.stem]))
        expected = np.array([annotation["bbox"] for annotation in annotations], np.float32).reshape(-1, 4)
        np.testing.assert_allclose(record.boxes[:, :2], expected[:, :2])
        np.testing.assert_allclose(record.boxes[:, 2:] - record.boxes[:, :2], expected[:, 2:])
        assert record.class_ids.tolist() == [dense[annotation["category_id"]] for annotation in annotations]


@given(st.lists(st.lists(st.floats(-0.002, 1.002), min_size=4, max_size=4), max_size=5))
def test_every_box_that_is_read_lies_in_its_picture_and_has_an_area_and_every_other_is_named(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("set")
    write_picture(root / "images/train/a.jpg")
    write(root / "labels/train/a.txt", "\n".join("0 " + " ".join(map(repr, row)) for row in [[0.5] * 4, *rows]))
    dataset = load_dataset(root)
    boxes = dataset.records[0].boxes
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes >= 0).all()
    assert (boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    assert len(boxes) + sum("its box" in line for line in dataset.skipped) == len(rows) + 1
