"""Compare experiments: gain, cost, diversity of the data, and drops per rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.evaluation.diversity import distinct_ngram_share
from selfimprove_dagster.evaluation.exam import accuracy, compare
from selfimprove_dagster.evaluation.results import Change, Results
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.loop.rules import finished_iterations
from selfimprove_dagster.table import is_measured
from selfimprove_dagster.text import percent
from selfimprove_dagster.work.budget import dollars
from selfimprove_dagster.work.progress import duration

_WRITTEN = ("completion", "chosen", "output")
"""Candidate names of the dataset column that holds the training target."""


@dataclass(frozen=True)
class MethodSummary:
    """The summary of one method of an experiment; fields that do not apply are None.

    `before` and `after` are the held-out accuracies of the initial model and of the latest champion; `change`
    is the difference on the same questions with its 95% interval. A method that trains no model declares what
    it compares, and `way` names it. `distinct` is the share of distinct word 4-grams in the training text.
    `dropped` counts the dropped candidates by rule, in descending order. `money` are the dollars paid to providers.
    """

    experiment: str
    method: str
    iterations: int
    promoted: int | None
    before: float | None
    after: float | None
    change: tuple[float, float, float] | None
    way: str
    tokens: int
    model_seconds: float
    seconds: float
    examples: int
    distinct: float | None
    dropped: tuple[tuple[str, int], ...]
    money: float = 0.0


def summarise(lake: Lake, experiment: Experiment) -> MethodSummary:
    """Summarise all finished iterations of the experiment's method."""
    finished = finished_iterations(lake, experiment)
    numbers = {one.iteration for one in finished}
    stages: dict[str, list[Manifest]] = {}
    for manifest in lake.manifests(f"{experiment.method}/*", experiment.name):
        if manifest.iteration in numbers:
            stages.setdefault(manifest.table.split("/")[1], []).append(manifest)
    method = registry.method(experiment.method)
    dataset = method.dataset
    datasets = [lake.read_ungated(one) for one in stages.get(dataset.stage if dataset else "", ())]
    written = [
        text
        for rows in datasets
        for name in [name for name in _WRITTEN if name in rows.columns][:1]
        for text in rows[name]
    ]
    decisions = [one for name, found in stages.items() if name.endswith("decisions") for one in found]
    dropped: Counter[str] = Counter()
    for one in decisions:
        counted = lake.read_ungated(one).filter(~pl.col("kept")).group_by("rule").len()
        dropped.update(dict(counted.iter_rows()))
    promotions = [one.promoted for one in finished if one.promoted is not None]
    own = method.results or Results()
    change = Change()
    if finished and own.change:
        change = own.change(lake, stages)
    elif finished and method.promotes and "evaluation" in stages and is_measured(method.table("evaluation")):
        change = _of_champions(lake, experiment, stages["evaluation"])
    return MethodSummary(
        experiment=experiment.name,
        method=experiment.method,
        iterations=len(finished),
        promoted=sum(promotions) if promotions else None,
        before=change.before,
        after=change.after,
        change=change.difference,
        way=change.way,
        tokens=sum(one.tokens for one in finished),
        model_seconds=sum(one.model_seconds for one in finished),
        seconds=sum(one.seconds for one in finished),
        examples=sum(map(len, datasets)),
        distinct=distinct_ngram_share(written) if written else None,
        dropped=tuple(dropped.most_common()),
        money=sum(one.money for one in finished),
    )


def _of_champions(lake: Lake, experiment: Experiment, evaluations: Sequence[Manifest]) -> Change:
    """Compare the latest champion with the initial model."""
    sat, mode = _sat(lake, evaluations), experiment.decided_in
    compared = compare(sat, mode)
    before, after = (accuracy(sat, role, mode).value for role in ("champion", "challenger"))
    return Change(before, after, (compared.difference, *compared.interval))


def _sat(lake: Lake, evaluations: Sequence[Manifest]) -> pl.DataFrame:
    """Return the answers of the first iteration's champion and, as challenger, of the latest champion."""
    frames = [lake.read_ungated(one) for one in evaluations]
    first, last = frames[0], frames[-1]
    promoted = {
        row["challenger_model_id"]
        for one in evaluations
        for row in lake.read_ungated(
            lake.manifest(one.table.replace("evaluation", "promotion"), one.partition)
        ).iter_rows(named=True)
        if row["promoted"]
    }
    role = "challenger" if last.filter(role="challenger")["model_id"][0] in promoted else "champion"
    after = last.filter(role=role).with_columns(role=pl.lit("challenger"))
    return pl.concat([first.filter(role="champion"), after])


HEADINGS = (
    *("experiment", "promoted", "held-out accuracy", "change", "tokens", "model", "in all", "examples"),
    *("distinct", "dropped"),
)


COST = "cost"
"""The heading of the column that is there if something was paid; it precedes the last one."""


def side_by_side(summaries: Sequence[MethodSummary]) -> list[list[str]]:
    """Return the headings, and the `cells` of each summary, with the cost if something was paid."""
    rows = [[*HEADINGS], *map(cells, summaries)]
    if any(one.money for one in summaries):
        for row, cost in zip(rows, [COST, *(dollars(one.money) for one in summaries)], strict=True):
            row.insert(-1, cost)
    return rows


def cells(one: MethodSummary, most_rules: int = 3) -> list[str]:
    """Return a summary as texts, one per heading; of the rules, only those with the most drops."""
    change = "–"
    if one.change is not None:
        difference, low, high = one.change
        change = f"{difference:+.1%} [{low:+.1%}, {high:+.1%}]"
    way = f" ({one.way})" if one.way else ""
    return [
        one.experiment if one.experiment == one.method else f"{one.experiment}: {one.method}",
        "–" if one.promoted is None else f"{one.promoted} of {one.iterations}",
        "–"
        if one.before is None or one.after is None
        else f"{percent(one.before)} → {percent(one.after)}{way}",
        change,
        f"{one.tokens:,}",
        duration(one.model_seconds),
        duration(one.seconds),
        f"{one.examples:,}" if one.distinct is not None else "–",
        "–" if one.distinct is None else f"{one.distinct:.2f}",
        ", ".join(f"{rule} {count:,}" for rule, count in one.dropped[:most_rules]) or "–",
    ]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of `side_by_side` as a table; they are numbers and checked names and need no escaping."""
    headings, *others = rows
    lines = (headings, ["---"] * len(headings), *others)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
