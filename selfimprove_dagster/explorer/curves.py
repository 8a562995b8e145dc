"""Build charts: measures of an experiment by iteration, and of an iteration by training step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.experiment.base import JUDGED, Experiment
from selfimprove_dagster.table import Row
from selfimprove_dagster.work.progress import Progress

Chart = dict[str, Any]
"""A chart has `id, title, about, percent, x, xlabel`, and `series` of `name, values, intervals`."""


Measured = Mapping[str, Any]
"""A row of the table of iterations has `result` (an `IterationResult`), `counts` by heading, and the measures
that the method's pages define."""


MODELS = {"champion": "champion", "challenger": "new checkpoint"}
"""The two models of an iteration: role → label on pages."""


@dataclass(frozen=True)
class Curve:
    """A measure by iteration: its key in the rows, and the title and description of its chart."""

    key: str
    title: str
    about: str
    percent: bool = False


def series(name: str, values: Sequence[float | None]) -> Row:
    """Return a line through values; None and numbers that are not finite leave a gap."""
    points = [value if value is not None and math.isfinite(value) else None for value in values]
    return {"name": name, "values": points, "intervals": [None] * len(points)}


def shares(name: str, measured: Sequence[Accuracy | None]) -> Row:
    """Return a line through shares with 95% intervals; None or a share of 0 items leaves a gap."""
    points = [one if one and one.total else None for one in measured]
    return {
        "name": name,
        "values": [one.value if one else None for one in points],
        "intervals": [one.interval if one else None for one in points],
    }


def live(progress: Progress | None) -> list[Chart]:
    """Return charts of the figures of work that is going on, such as a training's loss, and of its throughput."""
    history = progress.history if progress else ()
    names = dict.fromkeys(name for one in history for name in one if name != "done")
    return [
        {
            "id": f"live-{name}",
            "title": name.replace("_", " ").capitalize(),
            "about": f"{name.replace('_', ' ').capitalize()} of {progress.title} so far, by {progress.unit}.",
            "percent": False,
            "x": [one["done"] for one in history],
            "xlabel": progress.unit,
            "series": [series(name.replace("_", " "), [one.get(name) for one in history])],
        }
        for name in names
        if progress
    ]


def curve(of: Curve, rows: Sequence[Measured], *more: Row) -> Chart:
    """Return the chart of one measure; the lines in `more` are drawn before it."""
    return {
        "id": of.key,
        "title": of.title,
        "about": of.about,
        "percent": of.percent,
        "series": [*more, series(of.title.lower(), [row[of.key] for row in rows])],
    }


def by_role(of: Curve, rows: Sequence[Measured]) -> Chart:
    """Return the chart of a measure of both models, stored by role in the rows: shares or plain numbers."""
    measured = {role: [row[of.key].get(role) for row in rows] for role in MODELS}
    draw = shares if of.percent else series
    return {
        "id": of.key,
        "title": of.title,
        "about": of.about,
        "percent": of.percent,
        "series": [draw(name, measured[role]) for role, name in MODELS.items()],
    }


def decided_by(experiment: Experiment) -> str:
    """Return the answers that decide promotion, in words."""
    judged = ", as a model judges them" if experiment.decided_in == JUDGED else ""
    return f"Greedy answers{judged},"


def held_out_accuracy(rows: Sequence[Measured], answers: str = "Greedy answers,") -> Chart:
    """Return the chart of the accuracy that decides promotion, for both models.

    `answers` describes the answers that were scored.
    """
    return {
        "id": "accuracy",
        "title": "Held-out accuracy",
        "about": f"{answers} with 95% intervals. The champion is the model that the iteration "
        "started from; the new checkpoint is the model that it trained.",
        "percent": True,
        "series": [
            shares(name, [getattr(row["result"], role) for row in rows]) for role, name in MODELS.items()
        ],
    }


def default_charts(rows: Sequence[Measured]) -> list[Chart]:
    """Return charts of the held-out accuracy, if measured, and of each count in the table of iterations."""
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
