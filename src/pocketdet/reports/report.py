"""What a report says, part by part, and the file that it becomes."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.metadata import ModelMetadata
from pocketdet.datasets.records import Dataset
from pocketdet.errors import SettingsError
from pocketdet.evaluation import Evaluation
from pocketdet.reports import charts, page
from pocketdet.reports.curves import THRESHOLDS, Tradeoff, Tradeoffs, compute_tradeoffs
from pocketdet.reports.facts import describe_environment, describe_split
from pocketdet.reports.gallery import show_mistakes, to_jpeg
from pocketdet.reports.kernels import kernel_section
from pocketdet.reports.matching import Confusion, confuse
from pocketdet.reports.page import Section
from pocketdet.runtime.predictor import SCORE_THRESHOLD

SHOWN_CLASSES = 40  # in the table of confusions
SHOWN_LINES = 200  # of what was left out


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What a report is made from.

    Args:
        title: One line.
        evaluation: Of the detector on the split ``evaluated``.
        splits: Data sets by name, ``evaluated`` among them.
        evaluated: Name of the split that was measured.
        metadata: Of the detector.
        settings: Of the run or the command, by name.
        environment: What to say of the machine besides what is known anyway.
        rows: Of ``results.csv``; empty without a training.
        batch: ``(H, W, 3)`` RGB, training pictures as the network saw them.
        kernels: Of each depthwise layer its name, its kernels and the dead ones by cause; empty without a training.
        advice: What to do about them.
    """

    title: str
    evaluation: Evaluation
    splits: Mapping[str, Dataset]
    evaluated: str
    metadata: ModelMetadata
    settings: Mapping[str, object]
    environment: Mapping[str, object] = dataclasses.field(default_factory=dict)
    rows: Sequence[Mapping[str, float]] = ()
    batch: NDArray[np.uint8] | None = None
    kernels: Sequence[Mapping[str, Any]] = ()
    advice: Sequence[str] = ()

    @property
    def dataset(self) -> Dataset:
        """What was measured on."""
        return self.splits[self.evaluated]


def check_report_file(path: Path) -> None:
    """Find out before long work whether a report can be written; a missing folder is made.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SettingsError: The path is a folder or cannot be written.
    """
    charts.require_matplotlib()
    if path.is_dir():
        raise SettingsError(f"{path}: a folder; expected the name of a file for the report, such as {path}/report.html")
    with _named_failure(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def write_report(report: Report, path: Path) -> None:
    """Write a report as one HTML file that needs no other.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SettingsError: The file cannot be written.
    """
    check_report_file(path)
    content = to_html(report)
    with _named_failure(path):
        path.write_text(content, encoding="utf-8")


@contextlib.contextmanager
def _named_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"{path}: the report cannot be written: {error.strerror or error}; choose another place"
        ) from error


def to_html(report: Report) -> str:
    """The whole page."""
    result = report.evaluation
    tradeoffs = compute_tradeoffs(result, report.dataset)
    best = tradeoffs.mean.best
    confusion = confuse(result.detections, report.dataset, SCORE_THRESHOLD if best is None else float(THRESHOLDS[best]))
    figures = [
        ("AP50", f"{result.ap50:.3f}"),
        ("AP", f"{result.ap:.3f}"),
        ("best score threshold", "-" if best is None else f"{THRESHOLDS[best]:.3f}"),
        (f"pictures ({report.evaluated})", str(result.num_pictures)),
        ("objects", str(result.num_targets)),
        ("ms a picture", f"{result.milliseconds_per_picture:.1f}"),
    ]
    sections = [
        *([_training(report)] if report.rows else []),
        _classes(result, tradeoffs),
        _tradeoffs(report, tradeoffs),
        _confusion(report, confusion),
        _sizes(result),
        _mistakes(report, confusion),
        *([_batch(report.batch)] if report.batch is not None else []),
        *([kernel_section(report.kernels, report.advice, report.rows)] if report.kernels else []),
        _data(report),
        _left_out(report),
        _settings(report),
        Section(
            "Environment", "Where this was computed.", page.facts(describe_environment(report.environment).items())
        ),
    ]
    return page.page(report.title, figures, sections)


def _training(report: Report) -> Section:
    meaning = (
        "Losses should fall and AP rise until they level off. AP that falls while the losses still fall means that the "
        "network learns the training pictures by heart; AP that still rises at the end asks for more epochs."
    )
    return Section("Training", meaning, page.drawing(charts.training_chart(report.rows)))


def _classes(result: Evaluation, tradeoffs: Tradeoffs) -> Section:
    meaning = (
        "AP50 asks for boxes that overlap the object by half, AP (mean over IoU 0.50 to 0.95) for tight ones as well. "
        "Precision, recall and F1 are those at the best threshold: of each class in its row, of all in the last."
    )
    head = ("class", "objects", "AP50", "AP", "VOC AP50", "best threshold", "precision", "recall", "F1")
    rows = [
        (c.name, str(c.targets), *map(_figure, (c.ap50, c.ap, c.voc_ap50)), *_at_best(part))
        for c, part in zip(result.per_class, tradeoffs.per_class, strict=True)
    ]
    means = map(_figure, (result.ap50, result.ap, result.voc_ap50_area))
    rows.append(("mean", str(result.num_targets), *means, *_at_best(tradeoffs.mean)))
    return Section(
        "Classes", meaning, page.drawing(charts.class_chart(result.per_class)) + page.table(head, rows, has_sum=True)
    )


def _tradeoffs(report: Report, tradeoffs: Tradeoffs) -> Section:
    meaning = (
        "Precision is the share of boxes that are right, recall the share of objects that are found, F1 their harmonic "
        "mean, all at IoU 0.50. The area under a curve on the left is VOC's AP50. The dot is the score threshold with "
        "the best mean F1, a good --score-threshold to begin with; take a higher one if false alarms cost more than "
        "misses."
    )
    body = page.drawing(charts.tradeoff_chart(tradeoffs, report.dataset.class_names))
    return Section("Precision, recall and F1", meaning, body)


def _confusion(report: Report, confusion: Confusion) -> Section:
    meaning = (
        f"At the score threshold {confusion.score_threshold:.3f} and IoU 0.50. The diagonal is right; the column "
        '"background" counts misses, the row "background" false positives. Shades are shares of the row.'
    )
    names = [*report.dataset.class_names, "background"]
    shown = list(range(len(names)))
    if len(names) > SHOWN_CLASSES + 1:
        wrong = confusion.counts.sum(axis=0) + confusion.counts.sum(axis=1) - 2 * confusion.counts.diagonal()
        shown = [*sorted(np.argsort(-wrong[:-1], kind="stable")[:SHOWN_CLASSES].tolist()), len(names) - 1]
        meaning += f" Of {len(names) - 1} classes the {SHOWN_CLASSES} with the most mistakes are shown."
    counts = confusion.counts[np.ix_(shown, shown)].tolist()
    return Section("Confusion", meaning, page.heat_table([names[n] for n in shown], counts))


def _sizes(result: Evaluation) -> Section:
    meaning = (
        "COCO's sizes, by the area of the label in pixels of the picture: small below 32², medium below 96², large "
        "from there on. Weak small objects ask for a larger --size."
    )
    rows = [(size.name, str(size.targets), _figure(size.ap)) for size in result.by_size]
    return Section("Object sizes", meaning, page.table(("size", "objects", "AP"), rows))


def _mistakes(report: Report, confusion: Confusion) -> Section:
    meaning = (
        f'At the score threshold {confusion.score_threshold:.3f}, at most one of a kind from each picture. "is:" marks '
        "what the labels say. Labels can be wrong, too: look for objects that nobody labelled."
    )
    gallery = show_mistakes(confusion, report.evaluation.detections, report.dataset)
    counts = len(confusion.false_positives), len(confusion.misses), len(confusion.confusions)
    body = (
        page.pictures(f"False positives with the highest scores (of {counts[0]})", gallery.false_positives)
        + page.pictures(f"Misses of the largest objects (of {counts[1]})", gallery.misses)
        + page.pictures(f"Confusions with the highest scores (of {counts[2]})", gallery.confusions)
    )
    return Section("Worst mistakes", meaning, body)


def _batch(batch: NDArray[np.uint8]) -> Section:
    meaning = (
        "Pictures of the first batch, augmented, with their targets. Boxes that do not fit here are wrong in the "
        "labels, and objects too small to tell here are too small to learn."
    )
    return Section("What the network saw", meaning, page.large_picture(to_jpeg(batch)))


def _data(report: Report) -> Section:
    meaning = (
        "Classes with few objects are learned badly; splits should resemble each other. Box sizes are those in the "
        f"network's input of {report.metadata.input_size[1]} x {report.metadata.input_size[0]} pixels."
    )
    splits = {name: describe_split(dataset, report.metadata.input_size) for name, dataset in report.splits.items()}
    head = ("", *splits)
    rows = [
        ("pictures", *(str(split.pictures) for split in splits.values())),
        ("of these without objects", *(str(split.empty) for split in splits.values())),
        *(
            (f"{name}", *(str(split.objects[class_id]) for split in splits.values()))
            for class_id, name in enumerate(report.dataset.class_names)
        ),
        ("objects", *(str(sum(split.objects)) for split in splits.values())),
        ("of these difficult", *(str(split.difficult) for split in splits.values())),
    ]
    anchors = [float(np.sqrt(width * height)) for level in report.metadata.anchors for width, height in level]
    chart = charts.box_size_chart({name: split.box_sizes for name, split in splits.items()}, anchors)
    return Section("Data", meaning, page.table(head, rows) + page.drawing(chart))


def _left_out(report: Report) -> Section:
    lines = [f"{name}: {line}" for name, dataset in report.splits.items() for line in dataset.skipped]
    shown = lines[:SHOWN_LINES]
    if len(lines) > len(shown):
        shown.append(f"and {len(lines) - len(shown)} more")
    return Section("Left out", "Labels and pictures that could not be used.", page.bullets(shown or ["nothing"]))


def _settings(report: Report) -> Section:
    metadata = dataclasses.asdict(report.metadata)
    body = page.facts(report.settings.items()) + "<h3>Detector</h3>" + page.facts(metadata.items())
    return Section("Settings", "What was asked for, and what the detector's file says of itself.", body)


def _at_best(part: Tradeoff | None) -> tuple[str, str, str, str]:
    if part is None or part.best is None:
        return "-", "-", "-", "-"
    values = (curve[part.best] for curve in (THRESHOLDS, part.precision, part.recall, part.f1))
    threshold, precision, recall, f1 = (f"{value:.3f}" for value in values)
    return threshold, precision, recall, f1


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
