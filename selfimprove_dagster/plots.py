"""Charts as PNG bytes, for metadata and reports."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, title: str) -> bytes:
    """One line a series, points as (x, y), drawn in the order given; returns a PNG of 800 by 450 pixels.

    `x`, `y` label the axes. A legend appears when there is more than one series. Points that are not finite
    leave a gap. matplotlib is imported here; its global state (pyplot) is not touched, so this may run in
    any thread.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points in series.items():
        # A line through one point draws nothing.
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
    """Points with intervals, as (x, value, low, high), and a line at 0; returns a PNG as `line_chart` does.

    Of several series each stands a little beside the one before.
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
    """One bar a key, in the order given; returns a PNG as `line_chart` does."""
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
    # The default metadata names the matplotlib version: without it equal data give equal bytes for longer.
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()
