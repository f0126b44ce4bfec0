"""Charts as SVG text, to stand in a page: lines and letters take the page's colour, so that it may be dark or light."""

import importlib.util
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pocketdet.core.drawing import class_colour
from pocketdet.errors import MissingExtraError
from pocketdet.evaluation import ClassResult
from pocketdet.reports.curves import RECALLS, THRESHOLDS, Tradeoffs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's colour of text
NAMED_CLASSES = 10  # with more classes their curves have no colours and no names
BARS = 40


def require_matplotlib() -> None:
    """Check that the charts can be drawn, without importing what draws them.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError('a report needs matplotlib, not installed here; run: pip install "pocketdet[report]"')


def training_chart(rows: Sequence[Mapping[str, float]]) -> str:
    """Losses, AP and learning rate over the epochs of ``results.csv``."""
    figure, (losses, ap, rate) = start_figure(3, height=3.6)
    for number, name in enumerate(name for name in rows[0] if name.endswith("loss")):
        _plot_rows(losses, rows, name, number)
    for number, name in enumerate(("AP", "AP50")):
        _plot_rows(ap, rows, name, number)
    _plot_rows(rate, rows, "learning_rate", 0)
    for axes, title in ((losses, "losses"), (ap, "AP on the validation pictures"), (rate, "learning rate")):
        axes.set_title(title)
        _mark_epochs(axes)
        axes.set_ylim(bottom=0)
    for axes in (losses, ap):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return finish_figure(figure, "training")


def kernel_chart(rows: Sequence[Mapping[str, float]]) -> str:
    """Dead kernels over the epochs of ``results.csv``."""
    figure, (axes,) = start_figure(1, height=2.4)
    _plot_rows(axes, rows, "dead_kernels", 0)
    axes.set_title("dead depthwise kernels")
    _mark_epochs(axes)
    axes.set_ylim(bottom=0)
    return finish_figure(figure, "kernels")


def class_chart(results: Sequence[ClassResult]) -> str:
    """Bars of AP50 and AP; of many classes the worst."""
    known = [(c.name, c.ap50, c.ap) for c in results if c.ap50 is not None and c.ap is not None]
    if len(known) > BARS:
        known = sorted(known, key=lambda row: row[1])[:BARS]
    names, ap50, ap = zip(*known, strict=True)
    figure, (axes,) = start_figure(1, height=0.9 + 0.3 * len(known))
    place = np.arange(len(known))
    axes.barh(place - 0.2, ap50, 0.36, color=series_colour(1), label="AP50")
    axes.barh(place + 0.2, ap, 0.36, color=series_colour(6), label="AP (IoU 0.50 to 0.95)")
    axes.set_yticks(place, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return finish_figure(figure, "classes")


def tradeoff_chart(tradeoffs: Tradeoffs, class_names: Sequence[str]) -> str:
    """Precision over recall, and F1 over the score threshold; a dot marks the best threshold of the mean."""
    figure, (precision, f1) = start_figure(2)
    is_named = len(class_names) <= NAMED_CLASSES
    for class_id, (name, part) in enumerate(zip(class_names, tradeoffs.per_class, strict=True)):
        if part is None:
            continue
        colour, label, width = (series_colour(class_id), name, 1.2) if is_named else (INK, None, 0.3)
        precision.plot(RECALLS, part.falling_precision, color=colour, linewidth=width, label=label)
        f1.plot(THRESHOLDS, part.f1, color=colour, linewidth=width, label=label)
    mean, best = tradeoffs.mean, tradeoffs.mean.best
    precision.plot(RECALLS, mean.falling_precision, color=INK, linewidth=2.2, label="mean")
    f1.plot(THRESHOLDS, mean.f1, color=INK, linewidth=2.2, label="mean")
    if best is not None:
        f1.plot([THRESHOLDS[best]], [mean.f1[best]], "o", color=INK)
    for axes, title, across, up in (
        (precision, "precision and recall", "recall", "precision"),
        (f1, "F1 by score threshold", "score threshold", "F1"),
    ):
        axes.set(title=title, xlabel=across, ylabel=up, xlim=(0, 1), ylim=(0, 1.02))
    f1.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return finish_figure(figure, "tradeoffs")


def box_size_chart(sizes: Mapping[str, NDArray[np.float64]], anchors: Sequence[float]) -> str:
    """Shares of the boxes by the square root of their area.

    Args:
        sizes: Of every split, in input pixels.
        anchors: The same of the detector's anchors.
    """
    figure, (axes,) = start_figure(1)
    edges = np.geomspace(2, 1024, 37)
    for number, (name, values) in enumerate(sizes.items()):
        shares = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / max(1, len(values))
        axes.stairs(shares, edges, color=series_colour(number), linewidth=1.8, label=f"{name} ({len(values)} boxes)")
    for number, anchor in enumerate(anchors):
        axes.axvline(
            anchor, color=INK, linestyle=":", linewidth=0.8, label=None if number else "the detector's anchors"
        )
    axes.set_xscale("log")
    ticks = [2**power for power in range(1, 11)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(title="box sizes", xlabel="square root of the area, input pixels", ylabel="share of the split's boxes")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return finish_figure(figure, "boxes")


def _plot_rows(axes: "Axes", rows: Sequence[Mapping[str, float]], name: str, number: int) -> None:
    known = [row for row in rows if name in row]
    epochs, values = ([row[key] for row in known] for key in ("epoch", name))
    axes.plot(epochs, values, color=series_colour(number), marker=".", label=name.replace("_", " "))


def _mark_epochs(axes: "Axes") -> None:
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)  # there is no epoch 1.5


def series_colour(number: int) -> tuple[float, float, float]:
    """A class's colour, a little darker, to be seen on white."""
    red, green, blue = (0.9 * value / 255 for value in class_colour(number))
    return red, green, blue


def start_figure(columns: int, height: float = 3.2) -> tuple["Figure", Sequence["Axes"]]:
    """A figure of the page's width with axes side by side."""
    from matplotlib.figure import Figure  # slow to import, and an extra

    figure = Figure(figsize=(10, height), layout="constrained")
    grid = figure.subplots(1, columns, squeeze=False)[0]
    for axes in grid:
        axes.grid(color=INK, alpha=0.15)
        axes.set_axisbelow(True)
        axes.set_facecolor("none")
        axes.tick_params(colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
    return figure, list(grid)


def finish_figure(figure: "Figure", name: str) -> str:
    """The figure as an ``<svg>`` element.

    Args:
        figure: Drawn with ``INK``.
        name: Keeps what the charts of one page refer to apart.
    """
    import matplotlib

    for axes in figure.axes:
        legend = axes.get_legend()
        if legend is not None:
            legend.set(frame_on=False)
            for text in legend.get_texts():
                text.set_color(INK)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_color(INK)
    file = io.StringIO()
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has more letters than matplotlib
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r'<g id="[^"]*">', "<g>", drawn)  # matplotlib's names of parts are the same in every chart
