import pytest

from pocketdet.errors import ImageError
from pocketdet.runtime.sources import is_single_picture, list_pictures


@pytest.fixture
def folder(tmp_path):
    for name in ("img10.jpg", "img2.JPG", "img1.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "img3.jpg").touch()
    return tmp_path


def names(source):
    return [path.name for path in list_pictures(source)]


def test_a_folder_gives_its_own_pictures_in_natural_order(folder):
    assert names(folder) == ["img1.png", "img2.JPG", "img10.jpg"]


def test_numbers_in_names_count_as_numbers_wherever_they_stand(tmp_path):
    wanted = ["2024-9 x1.jpg", "2024-9 x12.jpg", "2024-10 x1.jpg", "a.jpg", "B3.jpg", "b20.jpg", "b003000.jpg"]
    for name in reversed(wanted):
        (tmp_path / name).touch()
    assert names(tmp_path) == names(f"{tmp_path}/*") == wanted


def test_a_pattern_gives_the_pictures_that_match(folder):
    assert names(f"{folder}/img1*") == ["img1.png", "img10.jpg"]
    assert sorted(names(f"{folder}/**/*.jpg")) == ["img10.jpg", "img3.jpg"]


def test_a_file_is_taken_whatever_its_suffix(folder):
    assert names(folder / "notes.txt") == ["notes.txt"]


def test_a_file_with_brackets_in_its_name_is_a_file(folder):
    (folder / "cat[1].jpg").touch()
    assert is_single_picture(folder / "cat[1].jpg")
    assert names(folder / "cat[1].jpg") == ["cat[1].jpg"]


def test_a_missing_file_is_named(folder):
    with pytest.raises(ImageError, match=r"absent\.jpg: no such file or folder"):
        list_pictures(folder / "absent.jpg")


def test_a_folder_without_pictures_is_an_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match=r"has no pictures; known suffixes are .*\.jpg"):
        list_pictures(tmp_path)


def test_a_pattern_without_pictures_is_an_error(folder):
    with pytest.raises(ImageError, match="matches no pictures"):
        list_pictures(f"{folder}/*.webp")
