"""The part of a report on depthwise kernels that died."""

from collections.abc import Mapping, Sequence
from typing import Any

from pocketdet.reports import charts, page
from pocketdet.reports.page import Section


def kernel_section(
    kernels: Sequence[Mapping[str, Any]], advice: Sequence[str], rows: Sequence[Mapping[str, float]]
) -> Section:
    """The curve over the epochs, a table of the layers that have dead kernels, and what to do.

    Args:
        kernels: Of each depthwise layer its name and counts; the same keys in each, the name first.
        advice: Sentences.
        rows: Of ``results.csv``; without ``dead_kernels`` there is no curve.
    """
    meaning = (
        "A dead kernel costs time and gives the same output on every picture. The curve counts them by weights and "
        "batch norms of the averaged network, the table those of the best detector, and under pictures those that were "
        "constant on validation pictures for no other cause."
    )
    chart = page.drawing(charts.kernel_chart(rows)) if any("dead_kernels" in row for row in rows) else ""
    names = list(kernels[0])
    sums = ["all layers", *(str(sum(layer[name] for layer in kernels)) for name in names[1:])]
    lines = [*([str(value) for value in layer.values()] for layer in kernels if layer["dead"]), sums]
    body = chart + page.table(names, lines, has_sum=True) + (page.bullets(advice) if advice else "")
    return Section("Dead kernels", meaning, body)
