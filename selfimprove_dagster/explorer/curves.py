"""Curves of an experiment over its iterations, and of an iteration over steps, to be drawn and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.table import Row

Chart = dict[str, Any]
"""A chart: `id, title, about, percent, x, xlabel`, and `series` of `name, values, intervals`."""


Measured = Mapping[str, Any]
"""An iteration in the table of iterations: `result` (an `IterationResult`), `counts` by heading, and what the
method's pages measure."""


MODELS = {"champion": "champion", "challenger": "new checkpoint"}
"""The two models of an iteration by their role, and what pages call them."""


@dataclass(frozen=True)
class Curve:
    """One measure by iteration: its key in the rows, and the words above its chart."""

    key: str
    title: str
    about: str
    percent: bool = False


def series(name: str, values: Sequence[float | None]) -> Row:
    """A line through values; None leaves a gap."""
    return {"name": name, "values": list(values), "intervals": [None] * len(values)}


def shares(name: str, measured: Sequence[Accuracy | None]) -> Row:
    """A line through shares with their 95% intervals; one of nothing, or None, leaves a gap."""
    points = [one if one and one.total else None for one in measured]
    return {
        "name": name,
        "values": [one.value if one else None for one in points],
        "intervals": [one.interval if one else None for one in points],
    }


def curve(of: Curve, rows: Sequence[Measured], *more: Row) -> Chart:
    """The chart of one measure; lines of `more` are drawn before it."""
    return {
        "id": of.key,
        "title": of.title,
        "about": of.about,
        "percent": of.percent,
        "series": [*more, series(of.title.lower(), [row[of.key] for row in rows])],
    }


def by_role(of: Curve, rows: Sequence[Measured]) -> Chart:
    """The chart of a measure of both models, which the rows hold by role: shares or plain numbers."""
    measured = {role: [row[of.key].get(role) for row in rows] for role in MODELS}
    draw = shares if of.percent else series
    return {
        "id": of.key,
        "title": of.title,
        "about": of.about,
        "percent": of.percent,
        "series": [draw(name, measured[role]) for role, name in MODELS.items()],
    }


def held_out_accuracy(rows: Sequence[Measured], answers: str = "Greedy answers,") -> Chart:
    """The chart of the accuracy that decides about promotion, of both models; `answers` says of what."""
    return {
        "id": "accuracy",
        "title": "Held-out accuracy",
        "about": f"{answers} with 95% intervals. The champion is the model that the iteration "
        "started from, the new checkpoint the one that it trained.",
        "percent": True,
        "series": [
            shares(name, [getattr(row["result"], role) for row in rows]) for role, name in MODELS.items()
        ],
    }


def default_charts(rows: Sequence[Measured]) -> list[Chart]:
    """Held-out accuracy where it was measured, and each number that the table of iterations counts."""
    measured = any(row["result"].champion or row["result"].challenger for row in rows)
    headings = dict.fromkeys(heading for row in rows for heading in row["counts"])
    return [
        *([held_out_accuracy(rows)] if measured else []),
        *(
            {
                "id": f"rows-{number}",
                "title": heading.capitalize(),
                "about": f"Number of {heading} in each iteration.",
                "percent": False,
                "series": [series(heading, [row["counts"].get(heading) for row in rows])],
            }
            for number, heading in enumerate(headings)
        ),
    ]
