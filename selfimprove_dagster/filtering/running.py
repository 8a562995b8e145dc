"""Apply the filters of an experiment to the candidates of a dataset, and again with other settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import polars as pl
from pydantic import BaseModel

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.filtering.registry import NamedStep, named, read_steps, step_of
from selfimprove_dagster.filters.rules import DECISION_COLUMNS, Filter, apply_filters
from selfimprove_dagster.lake.partition import Manifest

RECORDED = "filters"
"""The parameter of an activity that records the filters, and what it notes about where they were found."""


def decisions_on(
    parts: Iterable[pl.DataFrame], steps: Sequence[NamedStep], before: Sequence[Filter] = ()
) -> pl.DataFrame:
    """Return the decision of each step on each candidate that reached it.

    `parts` are all candidates in their order, those of one question in one part. The filters `before` come first. A
    step remembers across parts what it needs to, so decisions do not depend on the size of parts.
    """
    filters = [*before, *(step.open() for step in steps)]
    decided = (apply_filters(part, filters)[1] for part in parts)
    return pl.concat([pl.DataFrame(schema=DECISION_COLUMNS), *decided])


def recorded(steps: Sequence[NamedStep]) -> dict[str, Any]:
    """Return the parameter of an activity that records the steps."""
    return {RECORDED: {"steps": [step.recorded for step in steps]}}


def located(steps: Sequence[NamedStep]) -> dict[str, Any]:
    """Return what an activity notes about its steps without hashing it: where files and models were found."""
    return {RECORDED: [step.given for step in steps]}


class RecordedSteps(BaseModel):
    """The parameter that `recorded` returns."""

    steps: list[dict[str, Any]]


def thresholds(lake: Any, made: Manifest, section: RecordedSteps) -> Mapping[str, Any]:
    """Return the settings of recorded steps that other values may replace, each as `<rule>.<setting>`."""
    return {
        f"{step['rule']}.{name}": value for step in section.steps for name, value in _numbers(step).items()
    }


def with_thresholds(values: Mapping[str, Any], section: RecordedSteps) -> Mapping[str, Any]:
    """Return the recorded steps with the values of `thresholds`."""
    return {
        "steps": [
            {
                **step,
                "settings": step["settings"]
                | {name: values[f"{step['rule']}.{name}"] for name in _numbers(step)},
            }
            for step in section.steps
        ]
    }


def steps_again(made: Manifest, section: RecordedSteps) -> list[NamedStep]:
    """Return the steps that made a dataset, with the values of the section.

    Raises ExperimentError for a value that a step refuses, and for a user's filter that is gone or was changed.
    """
    entries = [
        {name: {**settings, **_numbers(step)}}
        for step, (name, settings) in zip(
            section.steps, map(named, made.activity.about[RECORDED]), strict=True
        )
    ]
    try:
        steps = read_steps(entries)
    except ValueError as error:
        raise ExperimentError(str(error)) from None
    for step, then in zip(steps, section.steps, strict=True):
        if step.source != then.get("source", ""):
            raise ExperimentError(f"{step.name} is another version than the one that made {made.activity.id}")
    return steps


def _numbers(step: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in step["settings"].items()
        if name != "version"
        and (isinstance(value, int | float) or (value is None and _may_be_number(step["name"], name)))
    }


def _may_be_number(step: str, setting: str) -> bool:
    """Return whether a setting without a value, such as the limit of a length, could be a number."""
    try:
        kind, _ = step_of(step)
    except ValueError:  # a user's filter, which is recorded without its folder
        return False
    field = kind.model_fields.get(setting)
    return field is not None and not {int, float}.isdisjoint(get_args(field.annotation))
