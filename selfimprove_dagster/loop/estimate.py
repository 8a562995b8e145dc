"""Forecast the tokens, time and disk space of an iteration.

A method may define its own forecast, such as a pilot. Otherwise the forecast is the use of the latest
finished iteration of that method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from selfimprove_dagster import registry
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.loop.rules import finished_iterations
from selfimprove_dagster.work.budget import _seconds, _spent
from selfimprove_dagster.work.forecast import Forecast, Range, StageForecast

if TYPE_CHECKING:
    from selfimprove_dagster.training.settings import TrainingOutcome


def estimate(
    lake: Lake, experiment: Experiment, iteration: int, fine_tune: Callable[..., TrainingOutcome]
) -> Forecast:
    """Forecast an iteration of the experiment's method; `fine_tune` trains like the trainer resource."""
    own = registry.method(experiment.method).estimate
    return (own or estimate_by_the_last)(lake, experiment, iteration, fine_tune)


def estimate_by_the_last(
    lake: Lake, experiment: Experiment, iteration: int, fine_tune: Callable[..., TrainingOutcome]
) -> Forecast:
    """Forecast that an iteration takes as much as the latest finished one of its method.

    Iterations of the experiment itself are preferred to those of other experiments. Raises ExperimentError if
    no iteration of the method is finished.
    """
    name, stages = _last_finished(lake, experiment)
    forecasts = []
    for manifest in stages:
        about = manifest.activity.about
        tokens, seconds = float(_spent(about).tokens), _seconds(about)
        forecasts.append(
            StageForecast(
                manifest.table.split("/")[1], Range(tokens, tokens), Range(seconds, seconds), manifest.bytes
            )
        )
    assumed = [
        f"each stage is assumed to take as much as in {name}, even if the settings differ",
        "checkpoint files are not counted; checks and Dagster take additional time",
    ]
    whole = Forecast(iteration, forecasts, 0, "", 0.0, assumed)
    iterations, limited_by = affordable(lake, experiment, whole.total)
    return replace(whole, iterations=iterations, limited_by=limited_by)


def _last_finished(lake: Lake, experiment: Experiment) -> tuple[str, list[Manifest]]:
    """Return the latest finished iteration of the method: name, and partitions in pipeline order."""
    end = f"{experiment.method}/{experiment.ends_with}"
    finished = lake.manifests(end)
    own = [one for one in finished if one.experiment == experiment.name]
    if not finished:
        raise ExperimentError(
            f"no iteration of {experiment.method} is finished yet, and the forecast is based on the latest; "
            f"run one first: `selfimprove run {experiment.name} --iterations 1`"
        )
    last = max(own or finished, key=lambda one: one.committed_at)
    order = registry.pipeline_order()
    stages = [
        one
        for one in lake.manifests(f"{experiment.method}/*", last.experiment)
        if one.iteration == last.iteration and one.table in order
    ]
    name = f"iteration {last.iteration} of {last.experiment}"
    return name, sorted(stages, key=lambda one: order[one.table])


def affordable(lake: Lake, experiment: Experiment, one: StageForecast) -> tuple[int, str]:
    """Return the maximum number of further iterations of that size within the budget, and the limit."""
    finished, budget = finished_iterations(lake, experiment), experiment.budget
    limits = {"budget.iterations": float(budget.iterations - len(finished))}
    if budget.tokens is not None:
        left = budget.tokens - sum(summary.tokens for summary in finished)
        limits["budget.tokens"] = left / max(one.tokens.high, 1)
    seconds = max(one.seconds.high, 1e-9)
    if budget.model_seconds is not None:
        left_seconds = budget.model_seconds - sum(summary.model_seconds for summary in finished)
        limits["budget.model_seconds"] = left_seconds / seconds
    if budget.hours is not None:
        left_seconds = 3600 * budget.hours - sum(summary.seconds for summary in finished)
        limits["budget.hours"] = left_seconds / seconds
    name = min(limits, key=lambda known: limits[known])
    return max(int(limits[name]), 0), name
