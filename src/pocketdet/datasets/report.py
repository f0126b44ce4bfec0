"""What the check of a data set found, for people and for scripts."""

import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from pocketdet.datasets.anchors import POOR, comparison_lines
from pocketdet.datasets.findings import Finding, Severity
from pocketdet.datasets.statistics import Figures, SplitStatistics

CLEAN, COPES, UNUSABLE = 0, 1, 2
_SHOWN = 20  # findings of one kind in the text

_TITLES = {
    Severity.STOPS: "stops training",
    Severity.LEFT_OUT: "training leaves out",
    Severity.SUSPECT: "training uses, but look at it",
}


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """Findings and figures.

    Args:
        path: The data set.
        size: Height and width of the network's input, to which sizes in input pixels refer.
        unions: Splits that are others together; the figures leave them out.
        figures: Of what training can use.
        findings: In the order in which they were met.
    """

    path: Path
    size: int
    unions: dict[str, tuple[str, ...]]
    figures: Figures
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0: nothing found; 1: training copes with all that was found; 2: something stops training."""
        if any(finding.severity is Severity.STOPS for finding in self.findings):
            return UNUSABLE
        return COPES if self.findings else CLEAN

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        anchors, own, smallest = self.figures.anchors, self.figures.own_anchors, self.figures.smallest
        return {
            "path": str(self.path),
            "size": self.size,
            "exit_code": self.exit_code,
            "counts": dict(collections.Counter(finding.kind for finding in self.findings)),
            "findings": [finding.to_dict() for finding in self.findings],
            "splits": [split._asdict() for split in self.figures.splits],
            "unions": {name: list(parts) for name, parts in self.unions.items()},
            "anchors": None if anchors is None else anchors._asdict(),
            "own_anchors": None if own is None else {"anchors": own.anchors, **own.fit._asdict()},
            "smallest": [{**small._asdict(), "file": str(small.file)} for small in smallest],
        }

    def to_text(self) -> str:
        """Tables, then what was found: the worst first, a line each."""
        return "\n".join([*self._figure_lines(), *self._finding_lines(), "", self._verdict()])

    def _figure_lines(self) -> Iterator[str]:
        splits = self.figures.splits
        yield from _table(["", *(split.name for split in splits)], _rows(splits))
        for name, parts in self.unions.items():
            yield f"{name} is {' and '.join(parts)} together"
        if self.figures.anchors is not None:
            fit = self.figures.anchors
            levels = ", ".join(f"P{3 + n} {share:.0%}" for n, share in enumerate(fit.share_by_level))
            yield ""
            yield f"anchors at {self.size} x {self.size}: the best one's shape has a mean IoU of {fit.mean_iou:.2f}"
            yield f"  {fit.share_poor:.1%} of the objects below {POOR}; best anchor on {levels}"
            if self.figures.own_anchors is not None:
                yield from comparison_lines(fit, self.figures.own_anchors)
            yield "smallest objects, input pixels:"
        for small in self.figures.smallest:
            yield f"  {small.width:.1f} x {small.height:.1f}  {small.class_name}  {small.file}"

    def _finding_lines(self) -> Iterator[str]:
        for severity, title in _TITLES.items():
            found = [finding for finding in self.findings if finding.severity is severity]
            if not found:
                continue
            yield from ("", f"{title}: {len(found)}")
            for kind in dict.fromkeys(finding.kind for finding in found):
                lines = [f"  {kind}: {finding.message}" for finding in found if finding.kind == kind]
                yield from lines[:_SHOWN]
                if len(lines) > _SHOWN:
                    yield f"  {kind}: ... and {len(lines) - _SHOWN} more; --json lists all"

    def _verdict(self) -> str:
        verdicts = {
            CLEAN: "nothing is wrong",
            COPES: f"{len(self.findings)} findings; training copes with all of them",
            UNUSABLE: f"{len(self.findings)} findings; training refuses this data set as it is",
        }
        return f"{self.path}: {verdicts[self.exit_code]}"


def _rows(splits: tuple[SplitStatistics, ...]) -> list[list[str]]:
    """Label and one cell a split."""
    rows = [
        ["pictures", *(str(split.pictures) for split in splits)],
        ["without objects", *(str(split.negatives) for split in splits)],
        ["objects", *(str(split.objects) for split in splits)],
    ]
    for title, histograms in (
        ("objects by class", [split.classes for split in splits]),
        ("objects by size (root of the area, input pixels)", [split.box_sizes for split in splits]),
    ):
        rows.append([title, *("" for _ in splits)])
        rows += [[f"  {key}", *(str(h[key]) for h in histograms)] for key in next(iter(histograms), {})]
    return rows


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
