"""Experiments side by side: what each gained, what it cost, how varied its data is, and what it dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster.evaluation import accuracy, compare
from selfimprove_dagster.experiment import Experiment
from selfimprove_dagster.lake import Lake, Manifest
from selfimprove_dagster.loop import finished_iterations
from selfimprove_dagster.measurement import Accuracy, PairedComparison
from selfimprove_dagster.methods.lmsi import distinct_ngram_share
from selfimprove_dagster.progress import duration

_WRITTEN = ("completion", "chosen", "output")
"""The column of a dataset that holds what is learnt to be written."""


@dataclass(frozen=True)
class MethodSummary:
    """What one method of an experiment came to; None where it has nothing of the kind.

    `before`, `after`: held-out accuracy of the model that it began with and of its last champion, compared on
    the same questions by `change`. `distinct`: distinct word 4-grams over all of what was trained on.
    `dropped`: candidates that each rule dropped, the most first.
    """

    experiment: str
    method: str
    iterations: int
    promoted: int | None
    before: Accuracy | None
    after: Accuracy | None
    change: PairedComparison | None
    tokens: int
    model_seconds: float
    seconds: float
    examples: int
    distinct: float | None
    dropped: tuple[tuple[str, int], ...]


def summarise(lake: Lake, experiment: Experiment) -> MethodSummary:
    """What the experiment's method came to in all of its finished iterations."""
    finished = finished_iterations(lake, experiment)
    numbers = {one.iteration for one in finished}
    stages: dict[str, list[Manifest]] = {}
    for manifest in lake.manifests(f"{experiment.method}/*", experiment.name):
        if manifest.iteration in numbers:
            stages.setdefault(manifest.table.split("/")[1], []).append(manifest)
    datasets = [lake.read_ungated(one) for one in stages.get("filtered_dataset", ())]
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
    sat = _sat(lake, stages.get("evaluation", ())) if promotions else None
    mode = experiment.decided_in
    return MethodSummary(
        experiment=experiment.name,
        method=experiment.method,
        iterations=len(finished),
        promoted=sum(promotions) if promotions else None,
        before=None if sat is None else accuracy(sat, "champion", mode),
        after=None if sat is None else accuracy(sat, "challenger", mode),
        change=None if sat is None else compare(sat, mode),
        tokens=sum(one.tokens for one in finished),
        model_seconds=sum(one.model_seconds for one in finished),
        seconds=sum(one.seconds for one in finished),
        examples=sum(map(len, datasets)),
        distinct=distinct_ngram_share(written) if written else None,
        dropped=tuple(dropped.most_common()),
    )


def _sat(lake: Lake, evaluations: Sequence[Manifest]) -> pl.DataFrame:
    """The answers of the first iteration's champion, and as challenger's those of the last champion."""
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


def cells(one: MethodSummary, most_rules: int = 3) -> list[str]:
    """A summary in words, one of each of `HEADINGS`; of the rules, those that dropped the most."""
    change = "–"
    if one.change is not None:
        low, high = one.change.interval
        change = f"{one.change.difference:+.1%} [{low:+.1%}, {high:+.1%}]"
    return [
        one.experiment if one.experiment == one.method else f"{one.experiment}: {one.method}",
        "–" if one.promoted is None else f"{one.promoted} of {one.iterations}",
        "–" if one.before is None or one.after is None else f"{one.before.value:.1%} → {one.after.value:.1%}",
        change,
        f"{one.tokens:,}",
        duration(one.model_seconds),
        duration(one.seconds),
        f"{one.examples:,}" if one.distinct is not None else "–",
        "–" if one.distinct is None else f"{one.distinct:.2f}",
        ", ".join(f"{rule} {count:,}" for rule, count in one.dropped[:most_rules]) or "–",
    ]
