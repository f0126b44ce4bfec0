"""Pictures that a data set holds more than once: the same file, or nearly the same picture."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocketdet.datasets.findings import Journal, Severity

_SIDE = 16  # of the small picture that stands for the whole one
# Among 4,228 pictures of PASCAL VOC, COCO and BCCD any two scenes differ in 48 bits of 256 or more, and by 13 levels or
# more where by fewer than 90 bits. Two pictures of one scene, out of focus differently: 31 bits, 2 levels.
_NEAR_BITS = 40
_NEAR_LEVELS = 10  # of 256
_NAMED = 5  # pictures of a group that a message names

# Where one picture lies in several splits, the copy in which it measures is worth most.
_KEPT_FIRST = ("test", "val", "valid", "validation")


class Fingerprint(NamedTuple):
    """What a picture is compared by."""

    digest: bytes  # of the file
    bits: NDArray[np.uint64]  # (4,) is a place of the small picture brighter than its left neighbour?
    thumbnail: NDArray[np.uint8]  # (16, 16, 3)


class Listing(NamedTuple):
    """A picture as one split lists it."""

    path: Path
    split: str
    fingerprint: Fingerprint

    def __str__(self) -> str:
        return f"{self.path} ({self.split})"


def take_fingerprint(path: Path, pixels: NDArray[np.uint8]) -> Fingerprint:
    """Of a file and the picture in it, ``(H, W, 3)``, which may be decoded at a reduced scale."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    picture = Image.fromarray(pixels)
    grey = picture.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    brightness = np.asarray(grey).astype(np.int16)
    bits = np.packbits(brightness[:, 1:] > brightness[:, :-1]).view(np.uint64)
    return Fingerprint(digest, bits, np.array(picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)))


def note_duplicates(listings: Sequence[Listing], journal: Journal) -> None:
    """Note each group of equal and of similar pictures, as a leak where it reaches over several splits."""
    same = _group_same(listings)
    for group in same:
        if len(group) > 1:
            is_one_path = len({listing.path for listing in group}) == 1
            _note(
                group,
                "leak",
                "duplicate",
                "is also listed as" if is_one_path else "is the same file as",
                journal,
            )
    for numbers in group_near([group[0].fingerprint for group in same]):
        similar = [listing for number in numbers for listing in same[number]]
        _note(similar, "near-leak", "near-duplicate", "looks like", journal)


def find_surplus(listings: Sequence[Listing]) -> set[tuple[str, Path]]:
    """Split and path of every listing but the best of each group of equal files.

    The best is one of a test split, or else of a validation split, or else the first.
    """
    surplus = set()
    for group in _group_same(listings):
        kept = min(group, key=lambda listing: _rank(listing.split))
        surplus |= {(listing.split, listing.path) for listing in group} - {(kept.split, kept.path)}
    return surplus


def group_near(fingerprints: Sequence[Fingerprint]) -> list[list[int]]:
    """Groups of at least two indices; every member is near to some other one of its group."""
    if not fingerprints:
        return []
    levels = np.array([fingerprint.thumbnail.mean() for fingerprint in fingerprints])
    order = np.argsort(levels, kind="stable")
    bits = np.stack([fingerprints[index].bits for index in order])
    thumbnails = np.stack([fingerprints[index].thumbnail for index in order])
    # Pictures differ at least by as much as their means do: most need no comparison.
    ends = np.searchsorted(levels[order], levels[order] + _NEAR_LEVELS, side="right")
    group_of = np.arange(len(bits))
    for first, end in enumerate(ends):
        differing = np.bitwise_count(bits[first + 1 : end] ^ bits[first]).sum(axis=1)
        near = first + 1 + np.flatnonzero(differing <= _NEAR_BITS)
        difference = np.abs(thumbnails[near].astype(np.int16) - thumbnails[first])
        for second in near[difference.mean(axis=(1, 2, 3)) <= _NEAR_LEVELS]:
            group_of[group_of == group_of[second]] = group_of[first]
    numbers, counts = np.unique(group_of, return_counts=True)
    return sorted(sorted(order[group_of == number].tolist()) for number in numbers[counts > 1])


def _group_same(listings: Sequence[Listing]) -> list[list[Listing]]:
    groups: dict[bytes, list[Listing]] = {}
    for listing in listings:
        groups.setdefault(listing.fingerprint.digest, []).append(listing)
    return list(groups.values())


def _rank(split: str) -> int:
    return _KEPT_FIRST.index(split.lower()) if split.lower() in _KEPT_FIRST else len(_KEPT_FIRST)


def _note(group: Sequence[Listing], leak: str, duplicate: str, what: str, journal: Journal) -> None:
    first, *others = group
    splits = dict.fromkeys(listing.split for listing in group)
    named = ", ".join(map(str, others[:_NAMED])) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
    text = f" ({first.split}): {what} {named}"
    if len(splits) > 1:
        text += f"; who learns from one of {', '.join(splits)} must not measure on another"
    journal.note(leak if len(splits) > 1 else duplicate, first.path, text, Severity.SUSPECT)
