"""The funnel of one iteration: how many rows are left after each step, and where the dropped ones are listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.table import Table, is_decisions, is_measured
from selfimprove_dagster.text import plural

Stages = Mapping[str, Manifest]
"""The committed tables of one iteration of one method, by stage."""


@dataclass(frozen=True)
class Step:
    """One step: how many rows are left, how many were dropped on the way (None: nothing can be dropped).

    `link` is where the dropped rows are listed, relative to the iteration's page. `share` is a share of 1, or
    None where the rows are not a part of those before.
    """

    label: str
    count: int
    dropped: int | None = None
    link: str | None = None
    share: float | None = None


def step(label: str, count: int, dropped: int | None = None, link: str | None = None, of: int = 0) -> Step:
    """A step whose rows are a part of `of` rows; 0 where they are not a part of anything."""
    return Step(label, count, dropped, link, count / of if of else None)


def counted(lake: Lake, stages: Stages, labels: Mapping[str, str]) -> list[Step]:
    """The number of rows of each committed stage; `labels` by stage."""
    return [step(label, lake.live_rows(stages[stage])) for stage, label in labels.items() if stage in stages]


def by_rule(decided: pl.DataFrame, kind: str, total: int, labels: Mapping[str, str]) -> list[Step]:
    """A step for each rule, in the order in which the rules ran. `decided` has `rule, kept`."""
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
    """The share of the candidates of a table of decisions that no rule dropped; None where there are none."""
    if stage not in stages:
        return None
    decided = lake.read_columns(stages[stage], ["candidate_id", "kept"])
    verdicts = decided.group_by("candidate_id").agg(pl.col("kept").all())["kept"]
    return int(verdicts.sum()) / len(verdicts) if len(verdicts) else None


def default_funnel(lake: Lake, stages: Stages, tables: Mapping[str, Table]) -> list[Step]:
    """The number of rows of each table; of a table of decisions the candidates and what each rule kept.

    `tables` are those of `stages`, in the order of the pipeline. Trained models and measurements are left out.
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
