"""Pictures and targets in batches; what a batch holds depends on seed, epoch and place alone."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pocketdet.datasets.records import Record
from pocketdet.errors import SettingsError
from pocketdet.training.assigner import Targets
from pocketdet.training.augment import Plan, Planner, Source
from pocketdet.training.gpu import PlanBatch, stack_plans
from pocketdet.training.pictures import PictureCache, Sample
from pocketdet.training.render import render
from pocketdet.training.settings import TrainSettings


class Item(NamedTuple):
    """Which picture, when: all that its random numbers depend on."""

    epoch: int
    number: int


class Batch(NamedTuple):
    """What a training step sees: pictures, or the plans by which a GPU draws them."""

    images: torch.Tensor | None  # (B, 3, H, W) uint8
    plans: PlanBatch | None
    targets: Targets


class TrainingPictures(Dataset[Sample]):
    """Augmented training pictures, drawn on the CPU.

    Args:
        records: The pictures and their targets.
        settings: Size, seed and probabilities.
        colour: RGB of empty places.
    """

    def __init__(self, records: Sequence[Record], settings: TrainSettings, colour: tuple[int, int, int]) -> None:
        self.size = settings.size
        self.colour = colour
        self._cache = PictureCache(records, settings.size)
        self._planner = Planner(settings, len(records), self._look)

    def __getitem__(self, item: Item) -> Sample:
        plan = self._planner.draw(*item)
        image = render(plan, lambda number: self._cache[number].image, self.size, self.colour)
        return Sample(image, plan.boxes, plan.class_ids)

    def _look(self, number: int) -> Source:
        image, boxes, class_ids = self._cache[number]
        return Source(image.shape[0], image.shape[1], boxes, class_ids)


class TrainingPlans(Dataset[Plan]):
    """The plans of augmented training pictures, for a GPU to draw.

    Args:
        sources: The pictures.
        settings: Size, seed and probabilities.
    """

    def __init__(self, sources: Sequence[Source], settings: TrainSettings) -> None:
        self._sources = sources
        self._planner = Planner(settings, len(sources), self._look)

    def __getitem__(self, item: Item) -> Plan:
        return self._planner.draw(*item)

    def _look(self, number: int) -> Source:
        return self._sources[number]


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


def collate(samples: Sequence[Sample] | Sequence[Plan]) -> Batch:
    """Stack pictures or plans, string targets together."""
    pictures = np.repeat(np.arange(len(samples)), [len(sample.boxes) for sample in samples])
    targets = Targets(
        torch.from_numpy(np.concatenate([sample.boxes for sample in samples])),
        torch.from_numpy(np.concatenate([sample.class_ids for sample in samples])),
        torch.from_numpy(pictures),
    )
    plans = [sample for sample in samples if isinstance(sample, Plan)]
    if plans:
        return Batch(None, stack_plans(plans), targets)
    images = np.stack([sample.image for sample in samples if isinstance(sample, Sample)])
    return Batch(torch.from_numpy(images).permute(0, 3, 1, 2), None, targets)


def build_loader(
    pictures: TrainingPictures | TrainingPlans, batches: EpochBatches, workers: int
) -> DataLoader[Sample] | DataLoader[Plan]:
    """A loader that keeps its workers from epoch to epoch."""
    return DataLoader(  # type: ignore[return-value]
        pictures,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
