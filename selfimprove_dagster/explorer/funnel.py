"""Build the funnel of one iteration: rows left after each step, with links to the dropped rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.table import Table, is_decisions, is_measured
from selfimprove_dagster.text import plural

Stages = Mapping[str, Manifest]
"""Maps a stage to its committed table, for one iteration of one method."""


@dataclass(frozen=True)
class Step:
    """A step: the number of rows left and the number dropped (None: this step cannot drop rows).

    `link` is the address of the list of dropped rows, relative to the iteration's page. `share` is a fraction
    between 0 and 1, or None if the rows are not a subset of those before.
    """

    label: str
    count: int
    dropped: int | None = None
    link: str | None = None
    share: float | None = None


def step(label: str, count: int, dropped: int | None = None, link: str | None = None, of: int = 0) -> Step:
    """Return a step whose rows are a subset of `of` rows; `of` is 0 if they are not a subset."""
    return Step(label, count, dropped, link, count / of if of else None)


def counted(lake: Lake, stages: Stages, labels: Mapping[str, str]) -> list[Step]:
    """Return a step with the number of rows of each committed stage; `labels` are given by stage."""
    return [step(label, lake.live_rows(stages[stage])) for stage, label in labels.items() if stage in stages]


def by_rule(decided: pl.DataFrame, kind: str, total: int, labels: Mapping[str, str]) -> list[Step]:
    """Return a step for each rule, in the order in which the rules ran. `decided` has `rule, kept`."""
    rules = decided.group_by("rule", maintain_order=True).agg(pl.len().alias("reached"), pl.col("kept").sum())
    return [
        step(
            labels.get(rule, f"pass the rule {rule}"),
            kept,
            reached - kept,
            f"rejected?of={kind}&rule={rule}",
            total,
        )
        for rule, reached, kept in rules.iter_rows()
    ]


def kept_share(lake: Lake, stages: Stages, stage: str = "decisions") -> float | None:
    """Return the share of candidates that no rule dropped; None without candidates."""
    if stage not in stages:
        return None
    decided = lake.read_columns(stages[stage], ["candidate_id", "kept"])
    verdicts = decided.group_by("candidate_id").agg(pl.col("kept").all())["kept"]
    return int(verdicts.sum()) / len(verdicts) if len(verdicts) else None


def default_funnel(lake: Lake, stages: Stages, tables: Mapping[str, Table]) -> list[Step]:
    """Return the number of rows of each table; for a decision table, the candidates and the rows kept by each
    rule.

    `tables` are the tables of `stages` in pipeline order. Trained models and measurements are omitted.
    """
    steps: list[Step] = []
    for stage, table in tables.items():
        if is_decisions(table):
            decided = lake.read_columns(stages[stage], ["candidate_id", "rule", "kept"])
            total = decided["candidate_id"].n_unique()
            steps.append(step("candidates", total, of=total))
            steps += by_rule(decided, stage, total, {})
        elif not table.holds_model and not is_measured(table):
            steps.append(step(plural(table.noun), lake.live_rows(stages[stage])))
    return steps
