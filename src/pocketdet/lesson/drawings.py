"""The drawings of the lesson, as SVG text in the page's colours."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pocketdet.lesson.facts import ACTIVATIONS, RANGE, Cost
from pocketdet.models.explain import Row
from pocketdet.reports.charts import finish_figure, series_colour, start_figure
from pocketdet.reports.page import escape

WIDTH, HEIGHT, GAP = 1000, 560, 10
DISTANT_COLOURS = (1, 2, 4)  # of the palette, for curves that lie close together
SHADES = {"backbone": "86, 140, 200", "neck": "214, 140, 60", "head": "90, 160, 110"}


def block_map(rows: Sequence[Row], say: dict[str, str]) -> str:
    """Every block as a rectangle; its area is its share of the multiply-adds. Each carries its shapes as a tooltip.

    Args:
        rows: Of the network.
        say: Texts of a language; the parts of a network are among them.
    """
    total = sum(row.multiply_adds for row in rows)
    parts = {part: [row for row in rows if row.part == part] for part in dict.fromkeys(row.part for row in rows)}
    free = WIDTH - GAP * (len(parts) - 1)
    drawn, left = [], 0.0
    for part, members in parts.items():
        weight = sum(row.multiply_adds for row in members)
        width = free * weight / total
        drawn.append(_text(left + 2, 14, f"{say.get(part, part)} {weight / total:.0%}"))
        top = 20.0
        for row in members:
            height = (HEIGHT - 20) * row.multiply_adds / weight
            drawn.append(_block(row, (left, top, width, height), say))
            top += height
        left += width + GAP
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="11">{"".join(drawn)}</svg>'


def _block(row: Row, place: tuple[float, float, float, float], say: dict[str, str]) -> str:
    left, top, width, height = place
    shape = "x".join(map(str, row.input))
    costs = say["block"].format(parameters=row.parameters, multiply_adds=row.multiply_adds)
    tip = f"{row.name}: {row.operator}, {shape} > {row.out_channels}; {costs}"
    label = f"{row.operator} {shape} > {row.out_channels}"
    fits = height > 14 and width > 6.2 * len(label)
    return (
        f'<g><title>{escape(tip)}</title><rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="rgba({SHADES.get(row.part, SHADES["backbone"])}, .55)" stroke="currentColor" stroke-opacity=".35"/>'
        + (_text(left + 4, top + height / 2 + 4, label) if fits else "")
        + "</g>"
    )


def residual_drawing(costs: Sequence[Cost], say: dict[str, str]) -> str:
    """The original residual block beside the inverted one: bars as wide as there are channels, and the shortcut."""
    shapes = ((256, 64, 64, 256), (24, 144, 144, 24))
    kernels = [say[key].split("|") for key in ("residual_kernels", "inverted_kernels")]
    drawn = []
    names = say["residual_names"].split("|")
    for number, (channels, between, cost, name) in enumerate(zip(shapes, kernels, costs, names, strict=True)):
        middle = 250 + 480 * number
        label = say["residual_label"].format(name=name, weights=cost.weights, multiply_adds=cost.multiply_adds)
        drawn.append(_text(middle, 16, label, "middle"))
        for step, count in enumerate(channels):
            width, top = count * 1.2, 40 + 60 * step
            drawn.append(
                f'<rect x="{middle - width / 2:.1f}" y="{top}" width="{width:.1f}" height="18" '
                f'fill="rgba({SHADES["backbone"]}, .6)"/>'
            )
            drawn.append(_text(middle + width / 2 + 6, top + 13, str(count)))
            if step:
                drawn.append(_text(middle, top - 16, between[step - 1], "middle"))
        edge = middle - max(channels) * 0.6 - 20
        drawn.append(
            f'<path d="M {middle - channels[0] * 0.6:.1f} 49 H {edge:.1f} V 229 H {middle - channels[-1] * 0.6:.1f}" '
            'fill="none" stroke="currentColor" stroke-dasharray="4 3"/>'
        )
    return f'<svg viewBox="0 0 {WIDTH} 260" role="img" font-size="12">{"".join(drawn)}</svg>'


def gate_strips(gates: dict[str, NDArray[np.float32]]) -> str:
    """Of each squeeze-and-excitation a strip with a cell a channel: empty is 0, full is 1."""
    drawn = []
    for line, (name, values) in enumerate(gates.items()):
        top, width = 26 * line, (WIDTH - 260) / len(values)
        drawn.append(_text(0, top + 15, f"{name} ({len(values)})"))
        drawn.append(
            f'<rect x="260" y="{top}" width="{WIDTH - 260}" height="20" fill="none" stroke="currentColor" '
            'stroke-opacity=".3"/>'
        )
        drawn += [
            f'<rect x="{260 + width * n:.2f}" y="{top + 20 * (1 - value):.1f}" width="{width:.2f}" '
            f'height="{20 * value:.1f}" fill="rgb({SHADES["neck"]})"/>'
            for n, value in enumerate(values.tolist())
        ]
    return f'<svg viewBox="0 0 {WIDTH} {26 * len(gates)}" role="img" font-size="11">{"".join(drawn)}</svg>'


def activation_chart() -> str:
    """Sigmoid and hard-sigmoid; ReLU6, swish and h-swish."""
    figure, (gates, activations) = start_figure(2)
    x = np.linspace(-RANGE, RANGE, 801)
    for name, function in ACTIVATIONS.items():
        axes = gates if "sigmoid" in name else activations
        axes.plot(x, function(x), color=series_colour(DISTANT_COLOURS[len(axes.lines)]), label=name)
    for axes in (gates, activations):
        axes.legend(loc="upper left")
    return finish_figure(figure, "activations")


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="currentColor" text-anchor="{anchor}">{escape(text)}</text>'
