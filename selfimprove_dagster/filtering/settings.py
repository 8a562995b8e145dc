"""The field `filters` of experiments whose datasets pass through filters by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from selfimprove_dagster import own_code
from selfimprove_dagster.experiment.base import TrainingExperiment
from selfimprove_dagster.experiment.paths import mark_of
from selfimprove_dagster.experiment.sections import NamesPath
from selfimprove_dagster.filtering.registry import NamedStep, named, read_steps, step_of

Entry = dict[str, dict[str, Any]]
"""A filter in an experiment: its name with its settings."""


def _entries(given: Any) -> Any:
    if not isinstance(given, list | tuple):
        raise ValueError("give a list of filters, such as [duplicates, {novelty: {at_most: 0.7}}]")
    try:
        return tuple({name: settings} for name, settings in map(named, given))
    except ValueError:
        read_steps(given)  # raises for all wrong filters, not only for the first
        raise


class FilteringExperiment(TrainingExperiment):
    """The settings of a method whose dataset passes through filters by name."""

    provided: ClassVar[frozenset[str]] = frozenset()
    """The columns with scores that the method gives its candidates; see `steps.Step.reads`."""
    lacking: ClassVar[Mapping[str, str]] = {}
    """Why the method does not give its candidates a column."""

    filters: Annotated[tuple[Entry, ...], BeforeValidator(_entries)] = Field(
        (),
        exclude_if=lambda entries: not entries,
        description="further filters by name, in their order, each alone or with settings as `name: {setting: value}`; "
        "`selfimprove filters` lists them",
    )

    @property
    def steps(self) -> list[NamedStep]:
        """Return the filters in their order. Raises ValueError as `registry.read_steps` does."""
        return read_steps(self.filters, self.provided, self.lacking)

    @model_validator(mode="after")
    def _filters_can_be_applied(self) -> FilteringExperiment:
        try:
            steps = self.steps
        except ValueError as error:
            raise ValueError(f"filters: {error}") from None
        problems = [f"{step.name}: {problem}" for step in steps if (problem := self.refuses(step))]
        if problems:
            raise ValueError(f"filters: {'; '.join(problems)}")
        return self

    def refuses(self, step: NamedStep) -> str:
        """Return why a step cannot be combined with the other settings; empty if it can."""
        return ""

    @classmethod
    def prepare(cls, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Resolve the paths of users' filters, and those in settings, from the folder of the experiment file."""
        given = values.get("filters")
        if not isinstance(given, list | tuple):
            return values
        return {**values, "filters": [_located(entry, folder) for entry in given]}


def _located(entry: Any, folder: Path) -> Any:
    """Return a filter with absolute paths; what is no filter stays as it is, and validation reports it."""
    try:
        name, settings = named(entry)
    except ValueError:
        return entry
    name = own_code.located(name, folder)
    try:
        kind, _ = step_of(name)
    except ValueError:
        return {name: settings}
    for field, about in kind.model_fields.items():
        mark, text = mark_of(about, NamesPath), settings.get(field)
        if mark is None or not isinstance(text, str):
            continue
        text = os.path.expanduser(os.path.expandvars(text))  # noqa: PTH111
        if not mark.is_model or text.startswith((".", "/")) or (folder / text).exists():
            text = os.path.normpath(folder / text)
        settings[field] = text
    return {name: settings}
