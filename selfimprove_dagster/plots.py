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
