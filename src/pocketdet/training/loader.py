"""Pictures and targets in batches; what a batch holds depends on seed, epoch and place alone."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pocketdet.core.images import read_image
from pocketdet.datasets.records import Record
from pocketdet.errors import SettingsError
from pocketdet.training.assigner import Targets
from pocketdet.training.augment import Sample, change_colour, flip, mosaic, place_one
from pocketdet.training.settings import TrainSettings

CACHE_BYTES = 3 * 2**30  # decoded pictures kept in memory, per process
CACHED_SIDE = 1.25  # long side of a kept picture, in input sizes


class Item(NamedTuple):
    """Which picture, when: all that its random numbers depend on."""

    epoch: int
    number: int


class Batch(NamedTuple):
    """What a training step sees."""

    images: torch.Tensor  # (B, 3, H, W) uint8
    targets: Targets


class TrainingPictures(Dataset[Sample]):
    """Augmented training pictures.

    Args:
        records: The pictures and their targets.
        settings: Size, seed and strengths.
        colour: RGB of empty places.
    """

    def __init__(self, records: Sequence[Record], settings: TrainSettings, colour: tuple[int, int, int]) -> None:
        self.records = records
        self.settings = settings
        self.colour = colour
        self._cache: dict[int, Sample] = {}
        self._cached_bytes = 0

    def __getitem__(self, item: Item) -> Sample:
        settings = self.settings
        rng = np.random.default_rng((settings.seed, item.epoch, item.number))
        is_plain = item.epoch >= round(settings.epochs * (1 - settings.plain_epochs))
        if rng.random() < settings.mosaic and not is_plain:
            others = rng.integers(len(self.records), size=3)
            four = [self._read(index) for index in (item.number, *map(int, others))]
            sample = mosaic(four, settings.size, self.colour, rng)
        else:
            sample = place_one(self._read(item.number), settings.size, self.colour, rng)
        if rng.random() < settings.flip:
            sample = flip(sample)
        return sample._replace(image=change_colour(sample.image, rng))

    def _read(self, index: int) -> Sample:
        if index in self._cache:
            return self._cache[index]
        record = self.records[index]
        side = round(CACHED_SIDE * self.settings.size)
        pixels, (height, width) = read_image(record.path, at_least=(side, side))
        scale = min(1.0, side / max(height, width))
        wanted = (max(1, round(width * scale)), max(1, round(height * scale)))
        if (pixels.shape[1], pixels.shape[0]) != wanted:
            pixels = np.asarray(cv2.resize(pixels, wanted, interpolation=cv2.INTER_AREA), np.uint8)
        factor = np.array([wanted[0] / width, wanted[1] / height] * 2, np.float32)
        sample = Sample(pixels, record.boxes * factor, record.class_ids)
        if self._cached_bytes + pixels.nbytes <= CACHE_BYTES:
            self._cache[index] = sample
            self._cached_bytes += pixels.nbytes
        return sample


class EpochBatches(Sampler[list[Item]]):
    """The batches of one epoch in its own random order, from any batch on.

    Args:
        num_pictures: Of the training split.
        batch_size: Pictures a batch; an incomplete last batch is left out, unless it is the only one.
        seed: With ``epoch`` it decides the order, for all processes the same one.
        part: Which part of each batch is ours.
        num_parts: Into how many parts each batch is cut, as equal as can be.

    Raises:
        SettingsError: A part would be empty.
    """

    def __init__(self, num_pictures: int, batch_size: int, seed: int, part: int = 0, num_parts: int = 1) -> None:
        self.num_pictures = num_pictures
        self.batch_size = min(batch_size, num_pictures)
        if self.batch_size < num_parts:
            raise SettingsError(
                f"a batch has {self.batch_size} pictures for {num_parts} processes; each needs at least one: "
                "raise batch_size or start fewer processes"
            )
        self.begin, self.end = (self.batch_size * number // num_parts for number in (part, part + 1))
        self.seed = seed
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        return self.num_pictures // self.batch_size

    def __iter__(self) -> Iterator[list[Item]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_pictures)
        for number in range(self.first_batch, len(self)):
            first = number * self.batch_size
            chosen = order[first + self.begin : first + self.end]
            yield [Item(self.epoch, int(index)) for index in chosen]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack pictures, string targets together."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    pictures = np.repeat(np.arange(len(samples)), [len(sample.boxes) for sample in samples])
    targets = Targets(
        torch.from_numpy(np.concatenate([sample.boxes for sample in samples])),
        torch.from_numpy(np.concatenate([sample.class_ids for sample in samples])),
        torch.from_numpy(pictures),
    )
    return Batch(images, targets)


def build_loader(pictures: TrainingPictures, batches: EpochBatches, workers: int) -> DataLoader[Sample]:
    """A loader that keeps its workers, and with them their decoded pictures, from epoch to epoch."""
    return DataLoader(
        pictures,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
