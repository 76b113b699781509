"""Plots as inline SVG that take their ink from the page and so read on light and dark paper."""

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK = "#010203"  # replaced by the page's text colour
_GRID = "#010204"  # replaced by the page's faint line colour
COLOURS = ("#3b7dd8", "#e07b39", "#3a9d78", "#c4539b", "#8a6fd1", "#a08a2e", "#d1495b", "#5b8a9a")
_counter = itertools.count()
_STYLE: Any = {
    "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif", "text.color": _INK,
    "axes.labelcolor": _INK, "axes.edgecolor": _GRID, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": _GRID, "axes.grid": True,
    "axes.grid.axis": "y", "grid.linewidth": 0.7, "axes.linewidth": 0.8, "xtick.major.size": 0,
    "ytick.major.size": 0, "legend.frameon": False, "legend.fontsize": 9, "axes.axisbelow": True,
    "axes.titlesize": 11, "axes.titlelocation": "left",
}  # fmt: skip


def lines_svg(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str = "step",
    y_label: str = "",
    log_y: bool = False,
    smooth: bool = False,
) -> str:
    """Curves over steps.

    series   name -> (x, y); values that are not finite are left out
    log_y    logarithmic y axis (when every shown value is above 0)
    smooth   draw the raw values faintly under a centred running mean
    Returns  an <svg> element
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.1), layout="constrained")
        axes = figure.subplots()
        positive = True
        for (name, (x, y)), colour in zip(series.items(), itertools.cycle(COLOURS), strict=False):
            x_array, y_array = np.asarray(x, float), np.asarray(y, float)
            keep = np.isfinite(x_array) & np.isfinite(y_array)
            x_array, y_array = x_array[keep], y_array[keep]
            positive &= bool((y_array > 0).all())
            window = max(1, len(y_array) // 40) if smooth else 1
            if window > 1:
                axes.plot(x_array, y_array, color=colour, alpha=0.22, linewidth=0.8)
                y_array = _running_mean(y_array, window)
            marker = "o" if len(y_array) < 2 else None
            axes.plot(x_array, y_array, color=colour, linewidth=1.6, label=name, marker=marker)
        if log_y and positive:
            axes.set_yscale("log")
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if len(series) > 1:
            axes.legend(ncols=min(3, len(series)))
        return _svg(figure, title)


def intervals_svg(
    rows: Sequence[tuple[str, float, float, float]],
    *,
    title: str,
    x_label: str = "",
    marks: Mapping[str, float] | None = None,
    x_range: tuple[float, float] | None = None,
) -> str:
    """A dot with its interval for each row, first row on top.

    rows     (label, value, low, high); no whisker where a bound is NaN
    marks    name -> value of vertical lines (chance, required)
    Returns  an <svg> element
    """
    with matplotlib.rc_context({**_STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(6.4, 0.85 + 0.27 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for y, (_, value, low, high) in enumerate(rows):
            if math.isfinite(low) and math.isfinite(high):
                axes.plot([low, high], [y, y], color=COLOURS[0], linewidth=2.2, alpha=0.45)
            axes.plot([value], [y], "o", color=COLOURS[0], markersize=5.5)
        axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _draw_marks(axes, marks or {})
        axes.set(title=title, xlabel=x_label)
        if x_range:
            axes.set_xlim(*x_range)
        return _svg(figure, title)


def points_svg(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    laws: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    marks: Mapping[str, float] | None = None,
    log_y: bool = False,
    join: bool = False,
) -> str:
    """Measurements with intervals over a logarithmic x axis.

    series   name -> (x, y, low, high) each, x > 0; no whisker where a bound is NaN
    laws     name -> (x, y) of curves drawn behind them
    marks    name -> value of horizontal lines (chance)
    join     whether the points of a series are joined
    Returns  an <svg> element
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        colours = itertools.cycle(COLOURS)
        for (name, (law_x, law_y)), colour in zip((laws or {}).items(), colours, strict=False):
            axes.plot(law_x, law_y, color=colour, linewidth=1.2, linestyle=(0, (5, 3)), label=name)
        for (name, points), colour in zip(series.items(), itertools.cycle(COLOURS), strict=False):
            for x, _, low, high in points:
                if math.isfinite(low) and math.isfinite(high):
                    axes.plot([x, x], [low, high], color=colour, linewidth=1.8, alpha=0.4)
            ordered = sorted(points)
            axes.plot(
                [p[0] for p in ordered], [p[1] for p in ordered], "o-" if join else "o",
                color=colour, markersize=4.5, linewidth=1.0, label=name,
            )  # fmt: skip
        for name, value in (marks or {}).items():
            axes.axhline(value, color=COLOURS[6], linewidth=1.0, linestyle=(0, (2, 3)), label=name)
        axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if len(series) + len(laws or {}) + len(marks or {}) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure, title)


def _draw_marks(axes: Axes, marks: Mapping[str, float]) -> None:
    for (name, value), colour in zip(marks.items(), COLOURS[1:], strict=False):
        axes.axvline(value, color=colour, linewidth=1.2, linestyle=(0, (4, 3)), label=name)
    if marks:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` values either side, over fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(0, index - window), np.minimum(len(values), index + window + 1)
    return (total[high] - total[low]) / (high - low)


def _svg(figure: Figure, label: str) -> str:
    """The figure as one element whose ids are its own, without metadata."""
    prefix = f"plot{next(_counter)}-"
    with matplotlib.rc_context({"svg.hashsalt": prefix}):
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.S)
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = svg.replace(_INK, "currentColor").replace(_GRID, "var(--line)")
    safe = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{safe}" class="plot"', 1)
