"""Draw charts as PNG bytes, for metadata and reports."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, title: str) -> bytes:
    """Draw one line per series, with points as (x, y), in the given order; return a PNG of 800 by 450 pixels.

    `x` and `y` label the axes. There is a legend if there is more than one series. Points that are not finite
    leave a gap. matplotlib is imported here; its global state (pyplot) is not used, so this function is
    thread-safe.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points in series.items():
        # A line through a single point is invisible.
        marker = "o" if len(points) == 1 else None
        axes.plot([p[0] for p in points], [p[1] for p in points], label=name, linewidth=1.5, marker=marker)
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    if len(series) > 1:
        axes.legend()
    return _png(figure)


def interval_chart(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]], *, x: str, y: str, title: str
) -> bytes:
    """Draw points with intervals, as (x, value, low, high), and a line at 0; return a PNG like `line_chart`.

    Several series are slightly shifted against each other.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(series.items()):
        beside = 0.1 * (number - (len(series) - 1) / 2)
        values = [value for _, value, _, _ in points]
        below = [value - low for _, value, low, _ in points]
        above = [high - value for _, value, _, high in points]
        places = [place + beside for place, _, _, _ in points]
        axes.errorbar(places, values, yerr=[below, above], label=name, fmt="o", capsize=4)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if series:
        axes.legend()
    return _png(figure)


def bar_chart(counts: Mapping[str, int], *, x: str, y: str, title: str) -> bytes:
    """Draw one bar per key, in the given order; return a PNG like `line_chart`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.bar([str(key) for key in counts], list(counts.values()))
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3, axis="y")
    return _png(figure)


def _png(figure: Any) -> bytes:
    png = io.BytesIO()
    # The default metadata contains the matplotlib version; without it, equal data give equal bytes.
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()
