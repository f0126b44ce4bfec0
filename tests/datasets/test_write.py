import numpy as np
import pytest
from PIL import Image

from pocketdet.datasets.check import check_dataset
from pocketdet.datasets.load import load_dataset
from pocketdet.datasets.records import Record
from pocketdet.datasets.write import WRITERS, check_target, write_dataset
from pocketdet.errors import SettingsError

NAMES = ("black & white", "no", "zèbre")
FILES = {"train": ("x/a.jpg", "y/a.png", "b c.jpg", "d.jpg.jpg"), "val": ("A.jpg", "e.rf.1a2b.jpg")}


@pytest.fixture
def splits(tmp_path):
    """Names that clash or trip lists; random boxes, the first picture of each split a negative, one turned by EXIF."""
    rng, splits = np.random.default_rng(0), {}
    exif = Image.Exif()
    exif[0x0112] = 6
    for split, files in FILES.items():
        splits[split] = []
        for number, file in enumerate(files):
            path = tmp_path / "source" / split / file
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (40, 60, 3), np.uint8)
            Image.fromarray(pixels).save(path, exif=exif.tobytes() if number == 1 else b"")
            limits = [40, 60] if number == 1 else [60, 40]
            corners = np.sort(rng.uniform(0, 1, (number, 2, 2)), axis=1) * limits
            boxes = corners.reshape(-1, 4).astype(np.float32)
            boxes[:1] = [0, 0, *limits]
            ids = np.arange(number) % len(NAMES)
            splits[split].append(Record(path, boxes, ids, ids == 1))
    return splits


@pytest.mark.parametrize("format", WRITERS)
def test_a_written_data_set_reads_back_to_equal_records(splits, tmp_path, format):
    write_dataset(tmp_path / "copy", format, splits, NAMES)
    for split, records in splits.items():
        dataset = load_dataset(tmp_path / "copy", (split,), NAMES)
        assert dataset.skipped == ()
        found = {record.path.read_bytes(): record for record in dataset.records}
        assert found.keys() == {record.path.read_bytes() for record in records}
        for record in records:
            copy = found[record.path.read_bytes()]
            np.testing.assert_allclose(copy.boxes, record.boxes, atol=1e-4)
            np.testing.assert_array_equal(copy.class_ids, record.class_ids)
            if format != "yolo":  # which has no mark for it
                np.testing.assert_array_equal(copy.difficult, record.difficult)


@pytest.mark.parametrize("format", WRITERS)
def test_in_a_written_data_set_only_the_turned_pictures_are_remarkable(splits, tmp_path, format):
    write_dataset(tmp_path / "copy", format, splits, NAMES)
    findings = check_dataset(tmp_path / "copy").report.findings
    assert {finding.kind for finding in findings} == {"exif-rotated"}


def test_splits_that_no_data_yaml_can_name_are_found_by_their_folders(splits, tmp_path):
    write_dataset(tmp_path / "copy", "yolo", {"extra2007": splits["train"]}, NAMES)
    dataset = load_dataset(tmp_path / "copy", ("extra2007",))
    assert dataset.class_names == NAMES
    assert len(dataset.records) == len(splits["train"])


def test_a_target_that_holds_something_or_lies_in_the_data_set_is_refused(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    check_target("voc", tmp_path / "new", source)
    with pytest.raises(SettingsError, match=r"unknown format 'pascal'; choose one of: voc, coco, yolo"):
        check_target("pascal", tmp_path / "new", source)
    with pytest.raises(SettingsError, match="lies in the data set"):
        check_target("voc", source / "clean", source)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(SettingsError, match="not an empty folder"):
        check_target("voc", tmp_path / "full", source)
    with pytest.raises(SettingsError, match="not an empty folder"):
        check_target("voc", tmp_path / "full/file", source)
