"""Forecast the tokens, time, money, disk space and memory of an iteration.

A stage that finished before with the same settings takes again what it took then. A pilot measures all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.estimating.forecast import Forecast, Range, StageForecast
from selfimprove_dagster.estimating.measuring import USUAL, Effort
from selfimprove_dagster.estimating.pilot import PilotStage, Say, run_pilot
from selfimprove_dagster.estimating.substitutes import bytes_of
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.loop.rules import finished_iterations
from selfimprove_dagster.stage import OpensModels
from selfimprove_dagster.work.budget import _seconds, _spent


def estimate(
    home: Home,
    experiment: Experiment,
    iteration: int,
    models: OpensModels,
    trainer: Any,
    say: Say,
    effort: Effort = USUAL,
) -> Forecast:
    """Forecast an iteration of the experiment's method, without writing into the home.

    `models` and `trainer` are those of a run. `say` takes lines about the progress of the pilot. Raises ExperimentError
    if a stage fails in the pilot.
    """
    method = registry.method(experiment.method)
    known = finished_stages(home.lake, experiment)
    assumed = []
    if len(known) == len(method.stages):
        measured = [StageForecast(stage.name, Range(0, 0), Range(0, 0), 0) for stage in method.stages]
    else:
        say(
            "A pilot runs every stage on a few items, with the settings of the experiment, and trains for a few steps. "
            "It takes a minute or two with a small model, and writes to a temporary folder only."
        )
        pilot = run_pilot(home, experiment, iteration, models, trainer, say, effort)
        known = same_stages(home.lake, experiment, pilot)
        measured = [stage.forecast for stage in pilot]
        assumed += [
            "a pilot: texts of the iteration are as long as the pilot's and pass filters as often, and a trained model "
            "writes as much as after a few steps",
            "the lower time is that of the growth of the pilot's batches, the higher that of the largest",
        ]
    stages = [
        _as_before(home.lake, known[stage.stage], stage) if stage.stage in known else stage
        for stage in measured
    ]
    if any(stage.at_least for stage in stages):
        assumed.append(
            "≥: a stage with batches that are larger than the pilot's, which did not grow, may need more"
        )
    if known:
        count = "every stage" if len(known) == len(method.stages) else ", ".join(known)
        words = ", ".join(map(str, sorted({manifests[-1].iteration for manifests in known.values()})))
        assumed.append(f"{count}: as much as in iteration {words}, which had the same settings")
    assumed.append("memory is that of one process for all stages; checks and Dagster take additional time")
    whole = Forecast(iteration, stages, 0, "", assumed)
    iterations_left, limited_by = affordable(home.lake, experiment, whole.total)
    return replace(whole, iterations=iterations_left, limited_by=limited_by)


def finished_stages(lake: Lake, experiment: Experiment) -> dict[str, list[Manifest]]:
    """Return the partitions of each stage in the last finished iteration, if it had the experiment's settings.

    The settings are those of the whole experiment; without such an iteration there are no stages.
    """
    finished = lake.manifests(f"{experiment.method}/{experiment.ends_with}", experiment.name)
    if not finished:
        return {}
    found = {}
    for stage in registry.method(experiment.method).stages:
        partitions = [(table.name, finished[-1].partition) for table in stage.writes]
        if not all(lake.exists(*one) for one in partitions):
            return {}
        found[stage.name] = [lake.manifest(*one) for one in partitions]
    made = [one for manifests in found.values() for one in manifests]
    if any(one.activity.about.get("settings") != experiment.settings_hash for one in made):
        return {}
    return found


def same_stages(lake: Lake, experiment: Experiment, pilot: Sequence[PilotStage]) -> dict[str, list[Manifest]]:
    """Return the latest partitions of the stages that did before what they do in the pilot, by stage.

    Their parameters and code versions are those of the pilot, and so are those of all stages that they read from.
    """
    ids = {activity.id for stage in pilot for activity in stage.activities}
    same: set[str] = set()
    found = {}
    for stage in pilot:
        made = [_same(lake, experiment, activity, ids - same) for activity in stage.activities]
        whole = [one for one in made if one is not None]
        if len(whole) == len(made) and len({one.iteration for one in whole}) == 1:
            found[stage.forecast.stage] = whole
            same |= {activity.id for activity in stage.activities}
    return found


def _same(lake: Lake, experiment: Experiment, activity: Activity, other: set[str]) -> Manifest | None:
    """Return the latest partition of an activity with the same parameters, unless it read from one of the `other`."""
    known = lake.manifests(activity.table, experiment.name)
    if not other.isdisjoint(activity.inputs):
        return None
    for manifest in reversed(known):
        earlier = manifest.activity
        if (earlier.parameters, earlier.code_version) == (activity.parameters, activity.code_version):
            return manifest
    return None


def _as_before(lake: Lake, manifests: list[Manifest], pilot: StageForecast) -> StageForecast:
    """Return what a stage took; the temporary disk space and money that it did not record are the pilot's."""
    about = [one.activity.about for one in manifests]
    trained = sum(int(one.get("trained_tokens", 0)) for one in about)
    drawn = sum(_spent(one).tokens for one in about)
    tokens, seconds = float(trained or drawn), sum(map(_seconds, about))
    return replace(
        pilot,
        tokens=Range(tokens, tokens),
        seconds=Range(seconds, seconds),
        bytes=sum(one.bytes for one in manifests) + sum(_bytes_of_model(lake, one) for one in manifests),
        generates=not trained,
        memory=_peak(about, "peak_memory"),
        gpu_memory=_peak(about, "peak_gpu_memory"),
        at_least=False,
        money=_peak(about, "money") if pilot.money is None else pilot.money,
    )


def _bytes_of_model(lake: Lake, manifest: Manifest) -> float:
    """Return the size of the trained models that a partition names, 0 for other partitions."""
    table = registry.tables().get(manifest.table)
    if table is None or not table.holds_model:
        return 0.0
    rows = pl.read_parquet(manifest.paths, columns=["path"], hive_partitioning=False)
    return sum(bytes_of(Path(lake.folder_at(address))) for address in rows["path"])


def _peak(about: list[Mapping[str, Any]], name: str) -> float | None:
    return max((float(one[name]) for one in about if one.get(name) is not None), default=None)


def affordable(lake: Lake, experiment: Experiment, one: StageForecast) -> tuple[int, str]:
    """Return the maximum number of further iterations of that size within the budget, and the limit."""
    finished, budget = finished_iterations(lake, experiment), experiment.budget
    limits = {"budget.iterations": float(budget.iterations - len(finished))}
    if budget.tokens is not None:
        left = budget.tokens - sum(summary.tokens for summary in finished)
        limits["budget.tokens"] = left / max(one.tokens.high, 1)
    if budget.money is not None and one.money:
        left_money = budget.money - sum(summary.money for summary in finished)
        limits["budget.money"] = left_money / one.money
    seconds = max(one.seconds.high, 1e-9)
    if budget.model_seconds is not None:
        left_seconds = budget.model_seconds - sum(summary.model_seconds for summary in finished)
        limits["budget.model_seconds"] = left_seconds / seconds
    if budget.hours is not None:
        left_seconds = 3600 * budget.hours - sum(summary.seconds for summary in finished)
        limits["budget.hours"] = left_seconds / seconds
    name = min(limits, key=lambda known: limits[known])
    return max(int(limits[name]), 0), name
