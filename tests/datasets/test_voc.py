from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketdet.datasets.load import list_splits, load_dataset
from pocketdet.errors import AnnotationError, DataError

BCCD = Path(__file__).resolve().parents[2] / "../shared/data/bccd"
ANIMALS = BCCD.parent / "voc12-animals"


def box_xml(name: str, box: tuple[object, ...], difficult: int = 0) -> str:
    corners = "".join(f"<{key}>{v}</{key}>" for key, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def add(root: Path, picture_id: str, *objects: str, suffix: str = ".jpg", orientation: int = 1) -> None:
    """A picture 40 wide and 30 high, and its annotation: one line each object, from line 2 on."""
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 30)).save(root / f"JPEGImages/{picture_id}{suffix}", exif=exif.tobytes())
    body = "\n".join(objects)
    annotation = f"<annotation><filename>other.jpg</filename>\n{body}\n</annotation>"
    (root / f"Annotations/{picture_id}.xml").write_text(annotation)


def add_list(root: Path, split: str, *lines: str) -> None:
    folder = root / "ImageSets/Main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")


def test_corners_count_from_one_and_include_the_last_pixel(tmp_path):
    add(tmp_path, "a", box_xml("cat", (1, 1, 40, 30)), box_xml("cat", (3, 4, 10.5, 20)))
    dataset = load_dataset(tmp_path)
    np.testing.assert_array_equal(dataset.records[0].boxes, [[0, 0, 40, 30], [2, 3, 10.5, 20]])
    assert dataset.skipped == ()


def test_boxes_partly_outside_are_clipped_and_others_named(tmp_path):
    whole, partly, zero = (1, 1, 5, 5), (-3, 20, 60, 31), (0, 0, 10, 10)
    outside, flat, inverted = (41, 1, 50, 5), (4, 4, 4, 9), (9, 4, 3, 8)
    add(tmp_path, "a", *(box_xml("cat", box) for box in (whole, outside, partly, flat, zero, inverted)))
    dataset = load_dataset(tmp_path)
    np.testing.assert_array_equal(dataset.records[0].boxes, [[0, 0, 5, 5], [0, 19, 40, 30], [0, 0, 10, 10]])
    no_area = [line for line in dataset.skipped if "no area" in line]
    outsiders = [line for line in dataset.skipped if "outside the picture, 40 x 30" in line]
    assert len(no_area) == 2
    assert "a.xml:5: object 4 (cat)" in no_area[0]
    assert "a.xml:7: object 6 (cat)" in no_area[1]
    assert len(outsiders) == 1
    assert "a.xml:3: object 2 (cat)" in outsiders[0]


def test_labels_are_taken_as_drawn_on_the_upright_picture(tmp_path):
    add(tmp_path, "a", box_xml("cat", (1, 1, 30, 40)), orientation=6)  # upright it is 30 wide and 40 high
    np.testing.assert_array_equal(load_dataset(tmp_path).records[0].boxes, [[0, 0, 30, 40]])


def test_the_picture_is_found_by_its_id_with_any_suffix(tmp_path):
    add(tmp_path, "a", box_xml("cat", (1, 1, 9, 9)), suffix=".PNG")
    assert load_dataset(tmp_path).records[0].path == tmp_path / "JPEGImages/a.PNG"


def test_difficult_objects_are_marked(tmp_path):
    unmarked = box_xml("cat", (1, 1, 5, 5)).replace("<difficult>0</difficult>", "")
    add(tmp_path, "a", box_xml("cat", (1, 1, 9, 9), difficult=1), box_xml("cat", (1, 1, 9, 9)), unmarked)
    assert load_dataset(tmp_path).records[0].difficult.tolist() == [True, False, False]


def test_parts_of_an_object_are_no_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"
    whole = box_xml("person", (1, 1, 20, 20)).replace("</object>", f"{part}</object>")
    add(tmp_path, "a", whole)
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("person",)
    assert dataset.records[0].boxes.shape == (1, 4)


def test_a_picture_without_objects_is_a_negative(tmp_path):
    add(tmp_path, "a", box_xml("cat", (1, 1, 9, 9)))
    add(tmp_path, "b")
    negative = load_dataset(tmp_path).records[1]
    assert negative.boxes.shape == (0, 4)
    assert (negative.boxes.dtype, negative.class_ids.dtype, negative.difficult.dtype) == (np.float32, np.int64, bool)


def test_classes_are_the_sorted_names_of_all_splits(tmp_path):
    add(tmp_path, "a", box_xml("dog", (1, 1, 9, 9)))
    add(tmp_path, "b", box_xml("cat", (1, 1, 9, 9)))
    add_list(tmp_path, "train", "a")
    add_list(tmp_path, "val", "b")
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.records[0].class_ids.tolist() == [1]


def test_lists_keep_their_order_and_vocs_lists_of_one_class_are_no_splits(tmp_path):
    for picture_id in ("a", "b", "c"):
        add(tmp_path, picture_id, box_xml("cat", (1, 1, 9, 9)))
    add_list(tmp_path, "train", "c", "a.jpg", "")
    add_list(tmp_path, "cat_train", "a -1", "c  1")
    assert list_splits(tmp_path) == {"train": 2}
    assert [record.path.stem for record in load_dataset(tmp_path).records] == ["c", "a"]


def test_what_lacks_its_other_half_is_named(tmp_path):
    add(tmp_path, "a", box_xml("cat", (1, 1, 9, 9)))
    add(tmp_path, "b", box_xml("cat", (1, 1, 9, 9)))
    add(tmp_path, "c")
    add(tmp_path, "d", box_xml("cat", (1, 1, 9, 9)))
    (tmp_path / "JPEGImages/b.jpg").unlink()
    (tmp_path / "Annotations/c.xml").unlink()
    (tmp_path / "JPEGImages/d.jpg").write_bytes(b"")
    dataset = load_dataset(tmp_path)
    assert [record.path.stem for record in dataset.records] == ["a"]
    assert "no such picture" in dataset.skipped[0]
    assert "c.xml is missing" in dataset.skipped[1]
    assert "d.jpg: empty (0 bytes)" in dataset.skipped[2]


def test_a_data_set_without_a_readable_picture_says_why(tmp_path):
    add(tmp_path, "a", box_xml("cat", (1, 1, 9, 9)))
    (tmp_path / "JPEGImages/a.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"no readable picture in train\n.*a\.jpg: not a picture"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>\n<object>\n", r"a\.xml:3: not valid XML \(no element found\)"),
        ("", r"a\.xml:1: not valid XML \(no element found\)"),
        ("<a/>", r"a\.xml:1: starts with <a>; expected VOC's <annotation>"),
        ("<annotation>\n<object>\n<name>cat</name></object></annotation>", r"a\.xml:2: object 1 has no <bndbox>"),
        ("<annotation>\n" + box_xml("cat", (1, 2, 3, 4)).replace("ymax", "y"), r"a\.xml:2: not valid XML|no <ymax>"),
        (f"<annotation>{box_xml('cat', (1, 2, 'x', 4))}</annotation>", r"a\.xml:1: <xmax> is 'x'; expected a number"),
        (f"<annotation>{box_xml('cat', (1, 2, 'nan', 4))}</annotation>", r"<xmax> is 'nan'; expected a number"),
        (f"<annotation>{box_xml('', (1, 2, 3, 4))}</annotation>", r"a\.xml:1: <name> is empty"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', r"a\.xml:1: .*encoding"),
        ('<!DOCTYPE a [\n<!ENTITY x "y">]><annotation/>', r"a\.xml:2: declares an entity"),
    ],
)
def test_a_wrong_annotation_is_refused_with_file_and_line(tmp_path, content, message):
    add(tmp_path, "a")
    (tmp_path / "Annotations/a.xml").write_text(content)
    with pytest.raises(AnnotationError, match=message):
        load_dataset(tmp_path)


@pytest.mark.skipif(not BCCD.exists(), reason="needs the shared data")
def test_bccd_reads_whole_but_for_its_two_boxes_without_area():
    dataset = load_dataset(BCCD, ("train", "val", "test"))
    assert len(dataset.records) == 364
    assert dataset.class_names == ("Platelets", "RBC", "WBC")
    assert len(dataset.skipped) == 2
    assert "BloodImage_00338.xml" in "".join(dataset.skipped)
    assert "BloodImage_00343.xml" in "".join(dataset.skipped)


@pytest.mark.skipif(not ANIMALS.exists(), reason="needs the shared data")
def test_animals_reads_whole():
    assert list_splits(ANIMALS) == {"extra2007": 182, "train": 1697, "val": 1729}
    dataset = load_dataset(ANIMALS, ("extra2007",), ("cat", "cow", "dog", "horse", "person", "sheep"))
    assert len(dataset.records) == 182
    assert all("not asked for" in line for line in dataset.skipped)


def test_model_makers_folder_has_its_pictures_in_images(tmp_path):
    add(tmp_path, "a", box_xml("cat", (3, 4, 10, 20)))
    (tmp_path / "JPEGImages").rename(tmp_path / "images")
    dataset = load_dataset(tmp_path)
    assert dataset.records[0].path == tmp_path / "images/a.jpg"
    np.testing.assert_array_equal(dataset.records[0].boxes, [[2, 3, 10, 20]])
