"""What is wrong with a data set: each finding with its place, and what training does about it."""

import enum
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pocketdet.errors import AnnotationError, DataError


class Severity(enum.StrEnum):
    """What training does about a finding."""

    STOPS = "stops"  # it refuses the data set, or ends where it meets this
    LEFT_OUT = "left out"  # it names this when it starts, and goes on without
    SUSPECT = "suspect"  # it uses this as it is


class Place(NamedTuple):
    """Where something stands."""

    file: Path
    line: int | None = None
    part: str = ""  # within the file or line, such as "object 3" or "annotations[7]"

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}"
        return f"{self.file}{line}: {self.part}" if self.part else f"{self.file}{line}"


class Finding(NamedTuple):
    """One thing that is wrong or looks wrong."""

    kind: str  # a short name for scripts, such as "no-area"; docs/data.md lists them
    severity: Severity
    file: Path
    line: int | None
    message: str  # for people: place, what is wrong, and the way out where there is one

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**self._asdict(), "severity": str(self.severity), "file": str(self.file)}


class Journal:
    """Collects findings while a data set is read.

    Args:
        tolerant: Wrong labels become findings and reading goes on; without it, the first one raises.
    """

    def __init__(self, tolerant: bool = False) -> None:
        self.tolerant = tolerant
        self.findings: list[Finding] = []

    def note(self, kind: str, place: Place | Path, text: str, severity: Severity = Severity.LEFT_OUT) -> None:
        """Add what does not stop training."""
        place = place if isinstance(place, Place) else Place(place)
        self.findings.append(Finding(kind, severity, place.file, place.line, f"{place}{text}"))

    @contextmanager
    def guard(self, file: Path, kind: str = "split") -> Iterator[None]:
        """What is read within and proves wrong ends this block alone, where the journal is tolerant.

        Args:
            file: What is read.
            kind: Of what is no wrong label, for those have their own.
        """
        try:
            yield
        except DataError as error:
            if not self.tolerant:
                raise
            kind = error.kind if isinstance(error, AnnotationError) else kind
            self.findings.append(Finding(kind, Severity.STOPS, file, _line(str(error), file), str(error)))


def _line(message: str, file: Path) -> int | None:
    """The line that a message names behind the file."""
    found = re.match(r":(\d+)", message.removeprefix(str(file))) if message.startswith(str(file)) else None
    return int(found[1]) if found else None
