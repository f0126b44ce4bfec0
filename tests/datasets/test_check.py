import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketdet.datasets.check import check_dataset
from pocketdet.datasets.findings import Finding, Severity
from pocketdet.datasets.report import CLEAN, COPES, UNUSABLE
from pocketdet.errors import AnnotationError, DataError, SettingsError

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
GOOD = "0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.25 0.25\n"


def picture(path: Path, seed: int | None = None, orientation: int = 1, size: tuple[int, int] = (48, 32)) -> Path:
    """Patches of random colours; another seed is another picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.stem)) if seed is None else seed
    patches = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC).save(path, quality=95, exif=exif.tobytes())
    return path


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Two splits of two sound pictures, 48 wide and 32 high."""
    root = tmp_path / "yolo"
    for split, names in (("train", "ab"), ("val", "cd")):
        for name in names:
            picture(root / f"images/{split}/{name}.jpg")
            write(root / f"labels/{split}/{name}.txt", GOOD)
    write(root / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Two sound pictures, 48 wide and 32 high; the object begins in line 3."""
    root = tmp_path / "voc"
    for name in "ab":
        picture(root / f"JPEGImages/{name}.jpg")
        write(root / f"Annotations/{name}.xml", voc_annotation())
    return root


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two sound pictures, 48 wide and 32 high."""
    root = tmp_path / "coco"
    images = [{"id": n, "file_name": f"{name}.jpg", "width": 48, "height": 32} for n, name in enumerate("ab")]
    for image in images:
        picture(root / "images" / image["file_name"])
    annotations = [{"id": n, "image_id": n % 2, "category_id": 1 + n // 2, "bbox": [1, 2, 20, 10]} for n in range(4)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    write_coco(root, {"images": images, "annotations": annotations, "categories": categories})
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def voc_annotation(
    box: tuple[object, ...] = (3, 4, 20, 20), size: tuple[int, int] = (48, 32), name: str = "cat"
) -> str:
    corners = "".join(f"<{key}>{v}</{key}>" for key, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return (
        f"<annotation>\n<size><width>{size[0]}</width><height>{size[1]}</height></size>\n"
        f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>\n"
        f"<object><name>cat</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>\n"
        f"</annotation>"
    )


def read_coco(root: Path) -> dict:
    return json.loads((root / "annotations/train.json").read_text())


def write_coco(root: Path, content: dict) -> None:
    write(root / "annotations/train.json", json.dumps(content))


def found(root: Path) -> dict[str, Finding]:
    """Findings by kind, each kind once."""
    findings = check_dataset(root).report.findings
    assert len({finding.kind for finding in findings}) == len(findings), findings
    return {finding.kind: finding for finding in findings}


def only(root: Path) -> Finding:
    (finding,) = check_dataset(root).report.findings
    return finding


@pytest.mark.parametrize("layout", ["yolo", "voc", "coco"])
def test_in_a_sound_data_set_nothing_is_found(layout, request):
    report = check_dataset(request.getfixturevalue(layout)).report
    assert report.findings == ()
    assert report.exit_code == CLEAN


@pytest.mark.parametrize(
    ("row", "kind", "severity"),
    [
        ("0 0.5 0.5 0.5", "label", Severity.STOPS),
        ("cat 0.5 0.5 0.5 0.5", "label", Severity.STOPS),
        ("2 0.5 0.5 0.5 0.5", "unknown-class", Severity.STOPS),
        ("0 7 0.5 0.5 0.5", "outside", Severity.STOPS),
        ("0 0.5 0.5 0 0.5", "no-area", Severity.LEFT_OUT),
    ],
)
def test_a_bad_row_is_named_by_file_and_line_and_the_rows_around_it_are_read(yolo, row, kind, severity):
    file = yolo / "labels/train/a.txt"
    first, second = GOOD.splitlines()
    write(file, f"{first}\n{row}\n{second}\n")
    checked = check_dataset(yolo)
    (finding,) = checked.report.findings
    assert finding[:4] == (kind, severity, file, 2)
    assert finding.message.startswith(f"{file}:2")
    assert [len(record.boxes) for record in checked.clean["train"]] == [2, 2]
    assert checked.report.exit_code == (UNUSABLE if severity is Severity.STOPS else COPES)


@pytest.mark.parametrize(
    ("box", "kind", "severity"),
    [
        ((3, 4, "x", 20), "label", Severity.STOPS),
        ((9, 4, 3, 20), "swapped-corners", Severity.LEFT_OUT),
        ((9, 4, 9, 20), "no-area", Severity.LEFT_OUT),
        ((60, 4, 70, 20), "outside", Severity.LEFT_OUT),
        ((30, 4, 70, 20), "partly-outside", Severity.SUSPECT),
    ],
)
def test_a_bad_object_is_named_by_file_and_line_and_the_next_one_is_read(voc, box, kind, severity):
    file = voc / "Annotations/a.xml"
    write(file, voc_annotation(box))
    checked = check_dataset(voc)
    (finding,) = checked.report.findings
    assert finding[:4] == (kind, severity, file, 3)
    assert [len(record.boxes) for record in checked.clean["train"]] == [2 if kind == "partly-outside" else 1, 2]


@pytest.mark.parametrize(
    ("change", "kind", "severity"),
    [
        ({"category_id": 9}, "unknown-class", Severity.STOPS),
        ({"bbox": [1, 2, 3]}, "label", Severity.STOPS),
        ({"bbox": [9, 9, -3, 5]}, "swapped-corners", Severity.LEFT_OUT),
        ({"image_id": 77}, "no-picture", Severity.LEFT_OUT),
    ],
)
def test_a_bad_annotation_is_named_by_its_number_and_the_others_are_read(coco, change, kind, severity):
    content = read_coco(coco)
    content["annotations"][0] |= change
    write_coco(coco, content)
    checked = check_dataset(coco)
    (finding,) = checked.report.findings
    assert finding[:3] == (kind, severity, coco / "annotations/train.json")
    assert "annotations[0]" in finding.message
    assert [len(record.boxes) for record in checked.clean["train"]] == [1, 2]


def test_an_annotation_that_is_no_xml_takes_its_picture_out_of_the_clean_copy(voc):
    write(voc / "Annotations/a.xml", "<annotation>\n<object>")
    checked = check_dataset(voc)
    (finding,) = checked.report.findings
    assert finding[:4] == ("label", Severity.STOPS, voc / "Annotations/a.xml", 2)
    assert [record.path.stem for record in checked.clean["train"]] == ["b"]


def test_a_split_that_cannot_be_read_does_not_hide_the_others(yolo):
    for path in (yolo / "images/val").iterdir():
        path.unlink()
    kinds = {finding.kind: finding.severity for finding in check_dataset(yolo, splits=("train", "val")).report.findings}
    assert kinds["split"] is Severity.STOPS
    assert [split.name for split in check_dataset(yolo).report.figures.splits] == ["train"]


def test_a_file_of_a_split_that_is_no_json_is_named_once_with_its_line(coco):
    write(coco / "annotations/val.json", '{"images": [],\n "annotations": [}')
    (finding,) = check_dataset(coco).report.findings
    assert finding[:4] == ("label", Severity.STOPS, coco / "annotations/val.json", 2)


def test_a_split_without_a_usable_object_stops_training(yolo):
    for name in "cd":
        write(yolo / f"labels/val/{name}.txt", "0 0.5 0.5 0 0.5\n")
    kinds = {finding.kind: finding for finding in check_dataset(yolo).report.findings}
    assert kinds.keys() == {"no-area", "split"}
    assert "split 'val' has no usable object in 2 pictures" in kinds["split"].message
    assert kinds["split"].severity is Severity.STOPS


def test_pictures_that_are_cut_or_none_are_told_apart_from_missing_ones(coco):
    content = read_coco(coco)
    content["images"].append({"id": 2, "file_name": "lost.jpg"})
    write_coco(coco, content)
    cut, text = coco / "images/a.jpg", coco / "images/b.jpg"
    cut.write_bytes(cut.read_bytes()[:-400])
    text.write_text("no picture")
    kinds = {f.file.name: (f.kind, f.severity) for f in check_dataset(coco).report.findings if f.kind != "unused-class"}
    assert kinds["a.jpg"] == ("picture", Severity.STOPS)  # its header is whole: only training meets the cut
    assert kinds["b.jpg"] == ("picture", Severity.LEFT_OUT)
    assert kinds["lost.jpg"] == ("no-picture", Severity.LEFT_OUT)


def test_an_exif_rotated_picture_is_named_and_its_size_is_the_upright_one(voc):
    picture(voc / "JPEGImages/a.jpg", orientation=6)
    kinds = found(voc)
    assert kinds.keys() == {"exif-rotated", "size-field"}
    assert "turned upright to 32 x 48" in kinds["exif-rotated"].message
    assert "its EXIF orientation turns it" in kinds["size-field"].message


def test_a_size_field_that_is_not_the_pictures_is_named(voc, coco):
    write(voc / "Annotations/a.xml", voc_annotation(size=(480, 320)))
    assert only(voc).kind == "size-field"
    assert "says 480 x 320, but" in only(voc).message
    content = read_coco(coco)
    content["images"][1]["width"] = 47
    write_coco(coco, content)
    assert "says 47 x 32, but" in only(coco).message


def test_a_picture_of_a_few_pixels_is_named(yolo):
    picture(yolo / "images/train/a.jpg", size=(48, 8))
    assert "only 48 x 8 pixels" in found(yolo)["tiny-picture"].message


def test_what_lacks_its_other_half_is_named(yolo, voc, coco):
    (yolo / "labels/train/a.txt").unlink()
    write(yolo / "labels/train/lonely.txt", GOOD)
    kinds = found(yolo)
    assert kinds["no-label"].file == yolo / "images/train/a.jpg"
    assert kinds["no-picture"].file == yolo / "labels/train/lonely.txt"
    (voc / "JPEGImages/b.jpg").unlink()
    picture(voc / "JPEGImages/c.jpg")
    assert found(voc).keys() == {"no-picture", "no-label"}
    stray = picture(coco / "images/stray.jpg")
    assert only(coco)[:3] == ("unlisted", Severity.LEFT_OUT, stray)


def test_pictures_and_annotations_that_no_list_names_are_found(voc):
    write(voc / "ImageSets/Main/train.txt", "a\n")
    write(voc / "Annotations/lonely.xml", voc_annotation())
    kinds = found(voc)
    assert kinds["unlisted"].file == voc / "JPEGImages/b.jpg"
    assert kinds["no-picture"].file == voc / "Annotations/lonely.xml"


def test_classes_without_objects_are_named(yolo):
    write(yolo / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog, cow]\n")
    assert "no object in train, val of the listed classes: cow" in only(yolo).message
    write(yolo / "labels/val/c.txt", "2 0.5 0.5 0.5 0.5\n")
    assert "objects in other splits, but none in train, of the classes: cow" in only(yolo).message


def test_classes_that_differ_by_spelling_alone_are_named(voc):
    write(voc / "Annotations/a.xml", voc_annotation(name="Cat"))
    assert "'Cat' and 'cat' differ by their spelling alone" in only(voc).message


@pytest.mark.parametrize("names", ["[cat, cat]", "[]"])
def test_class_lists_that_training_refuses_stop_it(yolo, names):
    write(yolo / "data.yaml", f"train: images/train\nval: images/val\nnames: {names}\n")
    findings = check_dataset(yolo).report.findings
    assert "class-names" in {finding.kind for finding in findings}
    assert any(finding.severity is Severity.STOPS for finding in findings) == (names == "[cat, cat]")


def test_only_the_classes_and_splits_that_are_asked_for_are_looked_at(yolo):
    write(yolo / "labels/val/c.txt", "0 0.5 0.5 0 0.5\n")
    report = check_dataset(yolo, splits=("train",), classes=("dog",)).report
    assert report.findings == ()
    (split,) = report.figures.splits
    assert (split.name, split.classes) == ("train", {"dog": 2})


def test_the_same_file_in_two_splits_is_a_leak_and_stays_where_it_measures(yolo):
    (yolo / "images/val/c.jpg").write_bytes((yolo / "images/train/a.jpg").read_bytes())
    checked = check_dataset(yolo)
    (finding,) = checked.report.findings
    assert finding[:3] == ("leak", Severity.SUSPECT, yolo / "images/train/a.jpg")
    assert f"is the same file as {yolo / 'images/val/c.jpg'} (val)" in finding.message
    assert {split: [r.path.stem for r in records] for split, records in checked.clean.items()} == {
        "train": ["b"],
        "val": ["c", "d"],
    }


def test_a_picture_saved_anew_and_smaller_is_a_near_duplicate(yolo):
    big = picture(yolo / "images/train/a.jpg", size=(480, 320))
    with Image.open(big) as original:
        original.resize((300, 200)).save(yolo / "images/train/b.jpg", quality=40)
    finding = only(yolo)
    assert finding[:3] == ("near-duplicate", Severity.SUSPECT, big)
    with Image.open(big) as original:
        original.save(yolo / "images/val/d.jpg", quality=60)
    assert only(yolo).kind == "near-leak"


def test_plain_pictures_of_different_colours_are_no_duplicates(yolo):
    for name, colour in (("a", "white"), ("b", "black")):
        Image.new("RGB", (48, 32), colour).save(yolo / f"images/train/{name}.jpg")
    assert check_dataset(yolo).report.findings == ()


def test_trainval_is_no_leak_of_train_and_val_but_a_picture_in_both_is(voc):
    for split, names in (("train", "a"), ("val", "b"), ("trainval", "a\nb")):
        write(voc / f"ImageSets/Main/{split}.txt", names)
    report = check_dataset(voc).report
    assert report.findings == ()
    assert report.unions == {"trainval": ("train", "val")}
    write(voc / "ImageSets/Main/val.txt", "a\nb")
    report = check_dataset(voc, splits=("train", "val")).report
    assert [finding.kind for finding in report.findings] == ["leak"]


def test_figures_are_those_worked_by_hand(yolo):
    """The letterbox makes 48 x 32 pixels 96 x 64: boxes are 48 x 32 and 24 x 16 input pixels."""
    figures = check_dataset(yolo, size=96).report.figures
    train, _ = figures.splits
    assert train[:4] == ("train", 2, 0, 4)
    assert train.classes == {"cat": 2, "dog": 2}
    assert {key: count for key, count in train.box_sizes.items() if count} == {"16-32": 2, "32-64": 2}
    assert figures.smallest[0][1:] == ("dog", 24.0, 16.0)
    assert figures.anchors is not None
    # (48, 32) against (40, 28): 1120 of 1536; (24, 16) against (12, 16): 192 of 384, and (40, 28): 384 of 1120.
    assert figures.anchors.mean_iou == pytest.approx((1120 / 1536 + 192 / 384) / 2)
    assert figures.anchors.share_poor == 0
    assert figures.anchors.share_by_level == (1, 0, 0)
    assert figures.anchors.recall == (1, 0.5)  # the second box has an IoU of 0.5, not above
    assert figures.own_anchors is None  # two sizes are too few for nine anchors


def test_the_report_compares_own_anchors_with_yolov4s(yolo):
    boxes = [f"0 0.5 0.5 {side / 10:g} {side / 12:g}" for side in range(1, 10)]
    write(yolo / "labels/train/a.txt", "\n".join(boxes))
    report = check_dataset(yolo).report
    own = json.loads(json.dumps(report.to_dict()))["own_anchors"]
    assert own["mean_iou"] > report.figures.anchors.mean_iou
    assert [len(level) for level in own["anchors"]] == [3, 3, 3]
    assert f"by k-means  mean IoU {own['mean_iou']:.3f}" in report.to_text()
    assert "own anchors can hurt" in report.to_text()


def test_the_report_is_json_and_text_with_every_finding(yolo):
    write(yolo / "labels/train/a.txt", "0 0.5 0.5 0.5\n" * 30)
    report = check_dataset(yolo).report
    document = json.loads(json.dumps(report.to_dict()))
    assert document["exit_code"] == UNUSABLE
    assert document["counts"] == {"label": 30}
    assert [finding["line"] for finding in document["findings"]] == list(range(1, 31))
    assert document["findings"][0]["file"] == str(yolo / "labels/train/a.txt")
    text = report.to_text()
    assert "stops training: 30" in text
    assert f"label: {yolo / 'labels/train/a.txt'}:20:" in text
    assert "and 10 more; --json lists all" in text


def test_progress_counts_every_picture(yolo):
    calls = []
    check_dataset(yolo, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_cannot_be_checked_at_all_is_refused(yolo, tmp_path):
    with pytest.raises(DataError, match="no class 'cow'"):
        check_dataset(yolo, classes=("cow",))
    with pytest.raises(DataError, match="no split 'test'"):
        check_dataset(yolo, splits=("test",))
    with pytest.raises(SettingsError, match="size is 100; it must be a multiple of 32"):
        check_dataset(yolo, size=100)
    with pytest.raises(DataError, match="no such file or folder"):
        check_dataset(tmp_path / "nowhere")
    write(yolo / "data.yaml", "train: [a\n")
    with pytest.raises(AnnotationError, match="not valid YAML"):
        check_dataset(yolo)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data")
def test_bccd_has_two_boxes_without_area_and_one_picture_in_two_splits():
    report = check_dataset(SHARED / "bccd").report
    assert report.exit_code == COPES
    no_area = [finding.file.stem for finding in report.findings if finding.kind == "no-area"]
    assert sorted(no_area) == ["BloodImage_00338", "BloodImage_00343"]
    leaks = [finding for finding in report.findings if finding.kind == "near-leak"]
    assert ["BloodImage_00037" in leak.message and "BloodImage_00038" in leak.message for leak in leaks] == [True]
    assert len(report.findings) == 3


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data")
def test_coco128_has_two_labels_without_picture_and_two_pictures_without_label():
    findings = check_dataset(SHARED / "coco128").report.findings
    names = {kind: sorted(f.file.stem for f in findings if f.kind == kind) for kind in ("no-picture", "no-label")}
    assert names == {
        "no-picture": ["000000000656", "000000000659"],
        "no-label": ["000000000250", "000000000508"],
    }
    assert {finding.kind for finding in findings} == {"no-picture", "no-label", "unused-class"}
