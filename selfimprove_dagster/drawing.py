"""How completions are drawn, as the activity records it: for stages that draw, replays and dataset cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfimprove_dagster import registry
from selfimprove_dagster.errors import MethodError
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.table import Row, Table


def recorded_sampling(
    table: Table, parameters: Mapping[str, Any], prompts: Prompts, row: Row | None = None
) -> SamplingParameters:
    """The sampling of an activity with these parameters that made a `table` whose `draw` is set.

    `prompts` give the stop strings and the structure if the activity does not record them; `row` is one of the table,
    on which they may depend. Stages that draw and replays that draw again both ask here, so that they cannot differ in
    either.
    """
    if table.draw is None:
        raise MethodError(f"the table {table.name} does not say how its rows are drawn")
    section, name = parameters[table.draw.section], table.draw.prompt
    if row is not None and table.draw.prompt_of is not None:
        name = table.draw.prompt_of(row)
    elif callable(name):
        name = name(section)
    stops = [*table.draw.stops(section)] if table.draw.stops else []
    if name and (recorded := parameters.get("prompting", {}).get("stop")) is not None:
        stops += recorded[name]
    elif name:
        stops += prompts.stops(name)
    structure = parameters.get("prompting", {}).get("structure", {}).get(name)
    return SamplingParameters(
        temperature=parameters.get("temperature", section.get("temperature", 0.0)),
        top_p=section.get("top_p", 1.0),
        top_k=section.get("top_k", 0),
        max_tokens=section["max_tokens"],
        stop=tuple(stops),
        structure=Structure(**structure) if structure else prompts.structure(name),
    )


def drawn_with(activity: Activity, row: Row | None = None) -> SamplingParameters:
    """Return the sampling with which an activity drew its completions, or one of them."""
    table = registry.table(activity.table)
    return recorded_sampling(table, activity.parameters, registry.shipped_prompts(table), row)
