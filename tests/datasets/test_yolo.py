from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketdet.datasets.load import list_splits, load_dataset
from pocketdet.errors import AnnotationError, DataError

COCO128 = Path(__file__).resolve().parents[2] / "../shared/data/coco128"
YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def add(root: Path, name: str, labels: str | None, images: str = "images", orientation: int = 1) -> Path:
    """A picture 40 wide and 20 high, and its label file."""
    path = root / images / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(path, exif=exif.tobytes())
    label = root / images.replace("images", "labels") / f"{name}.txt"
    label.parent.mkdir(parents=True, exist_ok=True)
    if labels is not None:
        label.write_text(labels)
    return path


def test_relative_boxes_become_image_pixels(tmp_path):
    add(tmp_path, "train/a", "1 0.5 0.5 0.25 0.5\n0 0.1 0.25 0.2 0.5\n")
    (tmp_path / "data.yaml").write_text(YAML)
    dataset = load_dataset(tmp_path)
    np.testing.assert_allclose(dataset.records[0].boxes, [[15, 5, 25, 15], [0, 0, 8, 10]], rtol=1e-6)
    assert dataset.records[0].class_ids.tolist() == [1, 0]
    assert dataset.class_names == ("cat", "dog")
    assert not dataset.records[0].difficult.any()
    assert dataset.skipped == ()


def test_boxes_are_relative_to_the_upright_picture(tmp_path):
    add(tmp_path, "train/a", "0 0.5 0.5 1 0.5\n", orientation=6)
    np.testing.assert_allclose(load_dataset(tmp_path).records[0].boxes, [[0, 10, 20, 30]])


def test_a_polygon_becomes_its_bounding_box(tmp_path):
    add(tmp_path, "train/a", "0 0.25 0.1 0.5 0.75 0.1 0.5\n")
    np.testing.assert_allclose(load_dataset(tmp_path).records[0].boxes, [[4, 2, 20, 15]], rtol=1e-6)


@pytest.mark.parametrize("labels", [None, "", "\n \n"])
def test_no_labels_make_a_negative(tmp_path, labels):
    add(tmp_path, "train/a", "0 0.5 0.5 0.5 0.5")
    add(tmp_path, "train/b", labels)
    dataset = load_dataset(tmp_path)
    assert [len(record.boxes) for record in dataset.records] == [1, 0]


def test_values_a_rounding_beyond_the_border_are_clipped(tmp_path):
    add(tmp_path, "train/a", "0 0.5 0.5 1.0009 1.0009\n0 -1e-3 0.5 0.2 0.5")
    np.testing.assert_allclose(load_dataset(tmp_path).records[0].boxes, [[0, 0, 40, 20], [0, 5, 3.96, 15]], rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[cat, dog]", ("cat", "dog")),
        ("\n  1: dog\n  0: cat", ("cat", "dog")),
        ("\n- no\n- 1e-3", ("no", "1e-3")),  # words that YAML takes for other things
    ],
)
def test_names_are_a_list_or_numbered(tmp_path, names, expected):
    add(tmp_path, "train/a", "1 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text(f"train: images/train\ntest:\nnames: {names}\n")
    assert load_dataset(tmp_path).class_names == expected


def test_paths_of_data_yaml_are_found_as_the_tools_write_them(tmp_path):
    add(tmp_path, "a", "0 0.5 0.5 0.5 0.5", images="train/images")
    add(tmp_path, "b", "0 0.5 0.5 0.5 0.5", images="valid/images")
    listing = tmp_path / "some.txt"
    listing.write_text("./train/images/a.jpg\nvalid/images/b.jpg\n")
    (tmp_path / "data.yaml").write_text(
        "path: ../elsewhere\ntrain: ../train/images\nval: [valid/images, train/images]\ntest: some.txt\nnames: [cat]\n"
    )
    assert list_splits(tmp_path) == {"train": 1, "val": 2, "test": 2}
    for split, number in (("train", 1), ("val", 2), ("test", 2)):
        records = load_dataset(tmp_path / "data.yaml", (split,)).records
        assert [len(record.boxes) for record in records] == [1] * number


@pytest.mark.parametrize("folders", ["images/train", "train/images", "images"])
def test_bare_folders_are_enough(tmp_path, folders):
    add(tmp_path, "a", "1 0.5 0.5 0.5 0.5", images=folders)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert [len(record.boxes) for record in dataset.records] == [1]


def test_a_label_beside_its_picture_is_found_even_below_a_folder_named_images(tmp_path):
    root = tmp_path / "images/mine"
    path = add(root, "a", None, images="train")
    path.with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5")
    (root / "data.yaml").write_text("train: train\nnames: [cat]\n")
    assert len(load_dataset(root).records[0].boxes) == 1


def test_nameless_classes_are_called_by_their_ids_over_all_splits(tmp_path):
    add(tmp_path, "train/a", "0 0.5 0.5 0.5 0.5")
    add(tmp_path, "val/b", "2 0.5 0.5 0.5 0.5")
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("0", "1", "2")
    assert any("nothing names the classes" in line for line in dataset.skipped)


def test_what_lacks_its_other_half_is_named(tmp_path):
    add(tmp_path, "train/a", "0 0.5 0.5 0.5 0.5")
    (tmp_path / "labels/train/lonely.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "images/train/empty.jpg").write_bytes(b"")
    (tmp_path / "data.yaml").write_text(YAML)
    skipped = load_dataset(tmp_path).skipped
    assert len(skipped) == 2
    assert "empty.jpg: empty (0 bytes)" in skipped[0]
    assert "lonely.txt: no picture has this name" in skipped[1]


def test_boxes_without_area_are_named(tmp_path):
    add(tmp_path, "train/a", "0 0.5 0.5 0.5 0.5\n0 0.5 0.5 0 0.5\n")
    (tmp_path / "data.yaml").write_text(YAML)
    (line,) = load_dataset(tmp_path).skipped
    assert "a.txt:2 (cat): its box has no area" in line


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0 0.5 0.5 0.5", r"a\.txt:1: 4 columns; expected 5"),
        ("\n0 0.5 0.5 0.5 0.5 0.9", r"a\.txt:2: 6 columns; expected 5"),
        ("2 0.5 0.5 0.5 0.5", r"a\.txt:1: class id 2 is out of range; .*data\.yaml lists 2 classes, numbered from 0"),
        ("-1 0.5 0.5 0.5 0.5", r"a\.txt:1: class id -1 is not a whole number"),
        ("0.5 0.5 0.5 0.5 0.5", r"a\.txt:1: class id 0\.5 is not a whole number"),
        ("cat 0.5 0.5 0.5 0.5", r"a\.txt:1: 'cat 0\.5 0\.5 0\.5 0\.5' are not all numbers"),
        ("0 20 0.5 0.5 0.5", r"a\.txt:1: 20 is outside 0 to 1"),
        ("0 0.5 0.5 0.5 1.01", r"a\.txt:1: 1\.01 is outside 0 to 1"),
        ("0 nan 0.5 0.5 0.5", r"a\.txt:1: nan is outside 0 to 1"),
    ],
)
def test_a_wrong_label_is_refused_with_file_and_line(tmp_path, labels, message):
    add(tmp_path, "train/a", labels)
    (tmp_path / "data.yaml").write_text(YAML)
    with pytest.raises(AnnotationError, match=message):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: [a\nnames: b", r"data\.yaml:\d: not valid YAML"),
        ("just words", r"data\.yaml: expected the keys"),
        ("names: [cat]", r"data\.yaml: names no split"),
        ("train: images/train\nnames: {0: cat, 2: dog}", r"data\.yaml: names has the ids 0, 2; expected 0 to 1"),
        ("train: images/train\nnames: cat", r"data\.yaml: names is 'cat'; expected a list"),
        ("train: {a: b}\nnames: [cat]", r"data\.yaml: train is .*; expected a folder"),
    ],
)
def test_a_wrong_data_yaml_is_refused(tmp_path, content, message):
    add(tmp_path, "train/a", "0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(AnnotationError, match=message):
        load_dataset(tmp_path)


def test_a_split_whose_folder_is_missing_says_where_it_looked(tmp_path):
    add(tmp_path, "train/a", "0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text(YAML)
    with pytest.raises(DataError, match=r"split 'val' has no pictures; .*data\.yaml looks for them in .*images/val"):
        load_dataset(tmp_path, ("val",))


@pytest.mark.skipif(not COCO128.exists(), reason="needs the shared data")
def test_coco128_names_its_two_labels_without_a_picture():
    assert list_splits(COCO128) == {"train": 128, "val": 128}
    dataset = load_dataset(COCO128)
    assert len(dataset.records) == 128
    assert len(dataset.class_names) == 80
    assert [line.split(": ")[1] for line in dataset.skipped] == ["no picture has this name"] * 2
    assert sum(len(record.boxes) == 0 for record in dataset.records) >= 2
