"""Which calls other thresholds would have kept: Toolformer's rules, run again over its scored calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from selfimprove_dagster.errors import ExperimentError, LakeError
from selfimprove_dagster.lake import Lake, Manifest
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.lineage.tool_explain import calls_of
from selfimprove_dagster.lineage.tool_words import METHOD
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.methods.toolformer.rules import filter_calls
from selfimprove_dagster.tool_sections import CallFilterSection
from selfimprove_dagster.tool_tables import (
    TF_CALL_POSITIONS,
    TF_DECISIONS,
    TF_FILTERED_DATASET,
    TF_PERPLEXITY_SCORES,
    TF_RAW_GENERATIONS,
    TF_SEED_POOL,
    TF_TOOL_RESULTS,
)
from selfimprove_dagster.toolboxes import call_candidates, call_thresholds

_JUDGED = {
    schema.name
    for schema in (
        *(TF_SEED_POOL, TF_CALL_POSITIONS, TF_RAW_GENERATIONS, TF_TOOL_RESULTS),
        *(TF_PERPLEXITY_SCORES, TF_DECISIONS, TF_FILTERED_DATASET),
    )
}
"""The tables whose rows are calls, hold some, or are what these were made from."""


def calls_asked(lake: Lake, place: Place) -> list[str]:
    """The ids of the calls that a record is, holds or was tried for.

    Raises ExperimentError for a record that no call of one iteration stands behind.
    """
    if place.iteration is None or place.table not in _JUDGED:
        raise ExperimentError(
            f"{place.id} ({place.table}) was not judged by thresholds; give an iteration, as "
            f"{place.experiment}-000, or a call, text or example of it"
        )
    row = Lineage(lake).rows([place.id], withdrawn=True)[place.id]
    return [call["id"] for call in calls_of(Iteration(lake, place.experiment, place.iteration, METHOD), row)]


def thresholds(lake: Lake, dataset: Manifest, section: CallFilterSection) -> dict[str, Any]:
    """The settings of a filter by name, τ_f under the name of each tool that was called."""
    results = lake.manifest(TF_TOOL_RESULTS.name, dataset.partition)
    tools = results.activity.parameters["tools"]
    by_tool = {tool: section.loss_reduction.get(tool, section.other_tools) for tool in tools}
    return {**by_tool, **section.model_dump(exclude={"loss_reduction", "other_tools"})}


def as_section(values: Mapping[str, Any], recorded: CallFilterSection) -> dict[str, Any]:
    """Named thresholds as the fields of an experiment's `filter` section."""
    fields = {name: value for name, value in values.items() if name in CallFilterSection.model_fields}
    by_tool = {name: value for name, value in values.items() if name not in fields}
    return {**fields, "loss_reduction": by_tool, "other_tools": recorded.other_tools}


def filter_again(lake: Lake, dataset: Manifest, section: CallFilterSection) -> pl.DataFrame:
    """Every decision on the calls of an iteration under other thresholds.

    Raises LakeError where the tables were made again since, or were not scored for so low a threshold.
    """
    frames = []
    for schema in (TF_TOOL_RESULTS, TF_PERPLEXITY_SCORES):
        manifest = lake.manifest(schema.name, dataset.partition)
        if manifest.activity.id not in dataset.activity.inputs:
            raise LakeError(
                f"{schema.name} was made again after the dataset {dataset.activity.id}; "
                f"materialise {dataset.table} again before asking what other thresholds would keep"
            )
        frames.append(lake.read_whole(manifest))
    try:
        return filter_calls(call_candidates(*frames), call_thresholds(section), dataset.activity.seed)[1]
    except ValueError as error:
        raise LakeError(f"{error}; materialise {TF_PERPLEXITY_SCORES.name} with it") from error
