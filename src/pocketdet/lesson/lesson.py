"""The lesson: a network's table, drawings and what it does on a picture, as one HTML page."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.drawing import draw
from pocketdet.core.metadata import ModelMetadata
from pocketdet.errors import SettingsError
from pocketdet.lesson import drawings, facts
from pocketdet.lesson.papers import paper_rows
from pocketdet.lesson.sights import Sights, look, overlay
from pocketdet.lesson.texts import LANGUAGES, TEXTS, TITLE_WORDS, Language
from pocketdet.models.checkpoint import TorchBackend
from pocketdet.models.detector import Detector
from pocketdet.models.explain import Explanation, Row
from pocketdet.reports import page
from pocketdet.reports.charts import require_matplotlib
from pocketdet.reports.gallery import Example, to_jpeg
from pocketdet.reports.page import Section
from pocketdet.runtime.predictor import SCORE_THRESHOLD, Predictor

PAIRS = ((16, 32), (32, 64), (128, 128), (512, 512))
SHUT, OPEN = 0.05, 0.95


def write_lesson(
    path: Path,
    explanation: Explanation,
    backbone: str,
    *,
    trained: tuple[Detector, ModelMetadata] | None = None,
    picture: Path,
    language: Language = "en",
) -> None:
    """Write the page.

    Args:
        path: The file; its folder is made.
        explanation: Of the network.
        backbone: A key of ``BACKBONES``, whose paper's table is shown.
        trained: The network with its weights; without it the page has no gates, kernels and features.
        picture: That a trained network is shown at work on.
        language: "en" or "zh".

    Raises:
        SettingsError: An unknown language, or the file cannot be written.
        ImageError: The picture cannot be read.
        MissingExtraError: matplotlib is not installed.
    """
    if language not in TEXTS:
        raise SettingsError(f'language is "{language}"; it must be one of {", ".join(LANGUAGES)}')
    require_matplotlib()
    say = TEXTS[language]
    sections = [
        _table(say, explanation, backbone),
        _map(say, explanation),
        _separable(say),
        _activations(say),
        _residual(say),
    ]
    if trained is not None:
        sights = look(*trained, picture)
        sections += [*_gates(say, sights), *_kernels(say, explanation), _sight(say, sights, *trained)]
    totals = explanation.totals()
    figures = [
        (say["parameters"], f"{totals['parameters']:,}"),
        (say["multiply_adds"], f"{totals['multiply_adds'] / 1e9:.2f} G"),
        (say["plain"], say["times"].format(times=totals["plain_multiply_adds"] / totals["multiply_adds"])),
    ]
    content = page.page(
        say["title"].format(network=_name(say, language, explanation, trained)), figures, sections, language
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(content, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written ({error.strerror}); choose another --page") from error


def _name(
    say: dict[str, str],
    language: Language,
    explanation: Explanation,
    trained: tuple[Detector, ModelMetadata] | None,
) -> str:
    if trained is None:
        title = explanation.title
        for english, word in TITLE_WORDS[language].items():
            title = title.replace(english, word)
        return title
    metadata = trained[1]
    height, width = explanation.size
    neck = say["neck_width"].format(width=metadata.neck_width)
    return say["listed"].join((metadata.backbone, neck, *metadata.class_names, f"{height} x {width}"))


def _table(say: dict[str, str], explanation: Explanation, backbone: str) -> Section:
    paper, printed = paper_rows(backbone)
    in_backbone = [row for row in explanation.rows if row.part == "backbone"]
    height, width = explanation.size
    rows = [_cells(row, "") for row in explanation.rows]
    if len(printed) == len(in_backbone):
        rows[: len(printed)] = [_cells(row, line) for row, line in zip(in_backbone, printed, strict=True)]
        meaning = say["table_meaning"].format(paper=paper, height=height, width=width)
    else:
        meaning = say["table_meaning_own"].format(height=height, width=width)
    return Section(say["table"], meaning, page.table(say["table_heads"].split("|"), rows))


def _cells(row: Row, printed: str) -> list[str]:
    return [
        row.name.removeprefix("backbone."),
        printed,
        "x".join(map(str, row.input)),
        row.operator,
        "" if row.expansion is None else str(row.expansion),
        str(row.out_channels),
        "x" if row.has_se else "",
        row.activation,
        str(row.stride),
        f"{row.parameters:,}",
        f"{row.multiply_adds:,}",
    ]


def _map(say: dict[str, str], explanation: Explanation) -> Section:
    total = explanation.totals()["multiply_adds"] / 1e9
    return Section(
        say["map"], say["map_meaning"].format(total=total), page.drawing(drawings.block_map(explanation.rows, say))
    )


def _separable(say: dict[str, str]) -> Section:
    costs = {pair: facts.convolution_costs(*pair) for pair in PAIRS}
    plain, separable = costs[PAIRS[0]]
    rows = [
        [
            f"{in_channels} > {out_channels}",
            *(f"{cost.weights:,}" for cost in pair),
            *(f"{cost.multiply_adds:,}" for cost in pair),
            f"{pair[1].weights / pair[0].weights:.1%}",
        ]
        for (in_channels, out_channels), pair in costs.items()
    ]
    meaning = say["separable_meaning"].format(few=separable.weights, many=plain.weights)
    return Section(say["separable"], meaning, page.table(say["separable_heads"].split("|"), rows))


def _activations(say: dict[str, str]) -> Section:
    x = np.linspace(-facts.RANGE, facts.RANGE, 20_001)
    curve = facts.ACTIVATIONS
    apart = {
        "swish": float(np.abs(curve["swish"](x) - curve["h-swish"](x)).max()),
        "sigmoid": float(np.abs(curve["sigmoid"](x) - curve["hard-sigmoid"](x)).max()),
    }
    rows = [[e.name, str(e.operations), f"{e.largest:.3f}", f"{e.mean:.4f}"] for e in facts.quantised_errors()]
    body = page.drawing(drawings.activation_chart()) + page.table(say["activations_heads"].split("|"), rows)
    return Section(say["activations"], say["activations_meaning"].format(**apart), body)


def _residual(say: dict[str, str]) -> Section:
    rows = [[str(dimensions), f"{error:.2f}"] for dimensions, error in facts.lost_by_relu()]
    body = page.drawing(drawings.residual_drawing(facts.residual_costs(), say))
    return Section(say["residual"], say["residual_meaning"], body + page.table(say["residual_heads"].split("|"), rows))


def _gates(say: dict[str, str], sights: Sights) -> list[Section]:
    """None where the network has no squeeze-and-excitation."""
    if not sights.gates:
        return []
    values = np.concatenate(list(sights.gates.values()))
    shares = {"shut": float((values < SHUT).mean()), "open": float((values > OPEN).mean())}
    meaning = say["gates_meaning"].format(count=len(values), **shares)
    return [Section(say["gates"], meaning, page.drawing(drawings.gate_strips(sights.gates)))]


def _kernels(say: dict[str, str], explanation: Explanation) -> list[Section]:
    """An exported file has no batch norms that would tell."""
    health = explanation.health
    if not health:
        return [Section(say["kernels"], say["kernels_unknown"], "")]
    counts = [
        [
            layer.layer,
            *(str(n) for n in (layer.kernels, layer.dead, layer.weights, layer.scale, layer.input, layer.bias)),
        ]
        for layer in health
        if layer.dead
    ]
    sums = [
        sum(getattr(layer, name) for layer in health)
        for name in ("kernels", "dead", "weights", "scale", "input", "bias")
    ]
    rows = [*counts, [say["kernels_all"], *map(str, sums)]]
    meaning = say["kernels_meaning"].format(kernels=sums[0], dead=sums[1])
    return [Section(say["kernels"], meaning, page.table(say["kernels_heads"].split("|"), rows, has_sum=True))]


def _sight(say: dict[str, str], sights: Sights, detector: Detector, metadata: ModelMetadata) -> Section:
    found = Predictor(TorchBackend(detector, metadata)).predict(sights.pixels, SCORE_THRESHOLD)
    examples = [_example(sights.pixels, say["input"]), _example(draw(found, sights.pixels), say["found"])]
    for stride, level in zip(metadata.strides, sights.features, strict=True):
        shown = overlay(sights.pixels, level, float(level.max()))
        examples.append(_example(shown, say["features"].format(stride=stride)))
    best = int(np.argmax(np.max([level.max(axis=(1, 2)) for level in sights.scores], axis=0)))
    for stride, scores in zip(metadata.strides, sights.scores, strict=True):
        caption = say["expects"].format(name=metadata.class_names[best], stride=stride, score=scores[best].max())
        examples.append(_example(overlay(sights.pixels, scores[best], 1.0), caption))
    return Section(say["sight"], say["sight_meaning"], page.pictures("", examples))


def _example(pixels: NDArray[np.uint8], caption: str) -> Example:
    return Example(to_jpeg(pixels), caption)
