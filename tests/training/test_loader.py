import dataclasses
import os
import pickle
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pocketdet.datasets.load import load_dataset
from pocketdet.errors import SettingsError
from pocketdet.training import pictures
from pocketdet.training.loader import Batch, EpochBatches, Item, TrainingPictures, build_loader
from pocketdet.training.settings import TrainSettings

SETTINGS = TrainSettings(size=64, epochs=10, batch_size=4, mosaic=1.0, plain_epochs=0.2)


def batches_of(data: Path, epoch: int, workers: int = 0, first_batch: int = 0, seed: int = 0) -> list[Batch]:
    settings = dataclasses.replace(SETTINGS, seed=seed)
    records = load_dataset(data).records
    batches = EpochBatches(len(records), settings.batch_size, seed)
    batches.epoch, batches.first_batch = epoch, first_batch
    return list(build_loader(TrainingPictures(records, settings, (114, 114, 114)), batches, workers))


def are_equal(some: list[Batch], others: list[Batch]) -> bool:
    return all(
        torch.equal(a.images, b.images) and all(torch.equal(x, y) for x, y in zip(a.targets, b.targets, strict=True))
        for a, b in zip(some, others, strict=True)
    )


def test_the_same_seed_gives_the_same_batches_with_and_without_workers(drawn_voc: Path) -> None:
    assert are_equal(batches_of(drawn_voc, 3), batches_of(drawn_voc, 3, workers=2))


def test_every_epoch_and_every_seed_draw_new_numbers(drawn_voc: Path) -> None:
    first = batches_of(drawn_voc, 0)
    assert not are_equal(first, batches_of(drawn_voc, 1))
    assert not are_equal(first, batches_of(drawn_voc, 0, seed=1))


def test_an_epoch_can_be_entered_at_any_batch(drawn_voc: Path) -> None:
    assert are_equal(batches_of(drawn_voc, 2)[2:], batches_of(drawn_voc, 2, first_batch=2))


def test_an_epoch_shows_every_picture_once(drawn_voc: Path) -> None:
    batches = EpochBatches(12, 4, seed=0)
    assert sorted(item.number for batch in batches for item in batch) == list(range(12))


def test_the_parts_of_all_processes_make_up_each_batch() -> None:
    whole = list(EpochBatches(13, 5, seed=0))
    parts = [list(EpochBatches(13, 5, 0, part, num_parts=3)) for part in range(3)]
    assert [[*first, *second, *third] for first, second, third in zip(*parts, strict=True)] == whole
    assert {len(batch) for part in parts for batch in part} == {1, 2}


def test_more_processes_than_pictures_in_a_batch_are_refused() -> None:
    with pytest.raises(SettingsError, match="a batch has 2 pictures for 3 processes"):
        EpochBatches(13, 2, seed=0, num_parts=3)


def test_the_last_epochs_are_without_mosaic(drawn_voc: Path) -> None:
    records = load_dataset(drawn_voc).records
    most = max(len(record.boxes) for record in records)
    pictures = TrainingPictures(records, SETTINGS, (114, 114, 114))
    counts = {epoch: [len(pictures[Item(epoch, index)].boxes) for index in range(len(records))] for epoch in (7, 8)}
    assert max(counts[7]) > most
    assert max(counts[8]) <= most


def test_pictures_without_objects_are_negatives(drawn_voc: Path) -> None:
    records = load_dataset(drawn_voc).records
    empty = [index for index, record in enumerate(records) if not len(record.boxes)]
    assert empty
    sample = TrainingPictures(records, SETTINGS, (114, 114, 114))[Item(9, empty[0])]
    assert sample.boxes.shape == (0, 4)
    assert sample.image.shape == (64, 64, 3)
    assert sample.boxes.dtype == np.float32


def test_pictures_that_the_cache_has_no_room_for_are_decoded_anew(
    drawn_voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batches_of(drawn_voc, 1)
    slot = 3 * pictures.cached_side(SETTINGS.size) ** 2
    for room in (0, 2 * slot):
        monkeypatch.setattr(pictures, "CACHE_BYTES", room)
        assert are_equal(batches_of(drawn_voc, 1), whole)


def test_the_cache_takes_at_most_half_of_what_is_free(drawn_voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = load_dataset(drawn_voc).records
    slot = 3 * pictures.cached_side(SETTINGS.size) ** 2
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=6 * slot))
    cache = pictures.PictureCache(records, SETTINGS.size)
    assert (cache._folder / "pixels").stat().st_size == 3 * slot


def test_a_worker_that_is_started_anew_maps_the_same_file(drawn_voc: Path) -> None:
    cache = pictures.PictureCache(load_dataset(drawn_voc).records, SETTINGS.size)
    first = cache[0].image.copy()
    other = pickle.loads(pickle.dumps(cache))
    cache._pixels[0, : first.size] = 7
    assert (other[0].image == 7).all()
    folder = cache._folder
    del cache
    assert not folder.exists()


@pytest.mark.skipif(os.name != "posix", reason="files can be locked for others on POSIX alone")
def test_the_cache_of_a_killed_run_is_removed_and_that_of_a_living_one_is_not(
    drawn_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(pictures, "SECONDS_TO_LOCK", -1)
    records = load_dataset(drawn_voc).records
    living = pictures.PictureCache(records, 64)
    killed = tmp_path / "pocketdet-killed"
    killed.mkdir()
    (killed / pictures.LOCK).touch()
    (tmp_path / "pocketdet-other").mkdir()
    second = pictures.PictureCache(records, 64)
    assert not killed.exists()
    assert (tmp_path / "pocketdet-other").exists()
    np.testing.assert_array_equal(living[0].image, second[0].image)
    assert len(list(tmp_path.iterdir())) == 3
