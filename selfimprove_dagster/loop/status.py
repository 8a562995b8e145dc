"""Collect the results of an experiment, iteration by iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.evaluation.exam import accuracy
from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.evaluation.results import Results
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.loop.taint import tainted_models
from selfimprove_dagster.shared_tables import REJECTED_SEEDS
from selfimprove_dagster.table import is_measured


@dataclass(frozen=True)
class IterationResult:
    """One row of the results table. Values are None if a stage is not committed yet or the method has none.

    `counts` holds, by heading, the rows of the stages that the method counts, without revoked rows. `columns`
    are further cells that the method defines, as text. `closed_gates` and `warnings` are the failed checks that block
    and those that do not, as text; warnings by table and name of the check. `tainted` is the reason why the new
    checkpoint is skipped, if any. `ended` is whether the method finished its last stage.
    """

    iteration: int
    counts: Mapping[str, int | None]
    columns: Mapping[str, str]
    champion: Accuracy | None
    challenger: Accuracy | None
    promoted: bool | None
    reason: str
    closed_gates: tuple[str, ...]
    warnings: Mapping[str, str]
    tainted: str
    ended: bool


def warnings_of(rows: Sequence[IterationResult]) -> list[str]:
    """Return a line for each check that failed and does not block, with the reason in its last such iteration."""
    failed: dict[str, list[IterationResult]] = {}
    for row in rows:
        for name in row.warnings:
            failed.setdefault(name, []).append(row)
    lines = []
    for name, found in failed.items():
        where = ", ".join(str(row.iteration) for row in found)
        plural = "s" if len(found) > 1 else ""
        lines.append(f"warning in iteration{plural} {where}: {name}: {found[-1].warnings[name]}")
    return lines


def rejected_lines(lake: Lake, experiment: str) -> pl.DataFrame:
    """Return the lines of an experiment's seed files that were rejected: `source_file, source_line, reason`."""
    columns = ["source_file", "source_line", "reason"]
    empty = pl.DataFrame(schema={name: REJECTED_SEEDS.polars[name] for name in columns})
    imports = lake.manifests(REJECTED_SEEDS.name, experiment)
    return pl.concat([empty, *(lake.read_columns(one, columns) for one in imports)])


def results(lake: Lake, experiment: Experiment) -> list[IterationResult]:
    """Return the experiment's iterations in order, finished or not."""
    by_iteration: dict[int, dict[str, Manifest]] = {}
    for manifest in lake.manifests(f"{experiment.method}/*", experiment.name):
        by_iteration.setdefault(manifest.iteration, {})[manifest.table.split("/")[1]] = manifest
    tainted = tainted_models(lake, experiment.name)
    return [
        _result(lake, iteration, stages, tainted, experiment)
        for iteration, stages in sorted(by_iteration.items())
    ]


def _result(
    lake: Lake,
    iteration: int,
    stages: dict[str, Manifest],
    tainted: Mapping[str, str],
    experiment: Experiment,
) -> IterationResult:
    method = registry.method(experiment.method)
    own = method.results or Results()
    champion = challenger = promoted = None
    reason, taint = own.reason(lake, stages), ""
    if "evaluation" in stages and is_measured(method.table("evaluation")):
        answers = lake.read_ungated(stages["evaluation"])
        champion, challenger = (
            accuracy(answers, role, experiment.decided_in) for role in ("champion", "challenger")
        )
    if "promotion" in stages:
        decision = lake.read_ungated(stages["promotion"]).row(0, named=True)
        promoted, reason = decision["promoted"], decision["reason"]
        taint = tainted.get(decision["challenger_model_id"], "")
    failed = [
        (f"{manifest.table}: {check.name}", check)
        for manifest in stages.values()
        for check in lake.checks(manifest)
        if not check.passed
    ]
    return IterationResult(
        iteration=iteration,
        counts={
            heading: lake.live_rows(stages[stage]) if stage in stages else None
            for heading, stage in method.counted.items()
        },
        columns=own.columns(lake, stages),
        champion=champion,
        challenger=challenger,
        promoted=promoted,
        reason=reason,
        closed_gates=tuple(f"{name}: {check.reason}" for name, check in failed if check.blocking),
        warnings={name: check.reason for name, check in failed if not check.blocking},
        tainted=taint,
        ended=experiment.ends_with in stages,
    )
