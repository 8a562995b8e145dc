"""The words of explanations of calls and texts, and the filter of calls run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from selfimprove_dagster.errors import LakeError
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.story import Explain, Story
from selfimprove_dagster.lineage.what_if import Refilter, read_again
from selfimprove_dagster.methods.toolformer.rules import filter_calls
from selfimprove_dagster.methods.toolformer.settings import CallFilterSection
from selfimprove_dagster.methods.toolformer.tables import (
    TF_CALL_POSITIONS,
    TF_PERPLEXITY_SCORES,
    TF_SEARCH_INDEX,
    TF_SEED_POOL,
    TF_TOOL_RESULTS,
)
from selfimprove_dagster.methods.toolformer.toolboxes import call_candidates, call_thresholds
from selfimprove_dagster.methods.toolformer.words import losses, place_sentence, savings, written
from selfimprove_dagster.table import Row
from selfimprove_dagster.words import count


def loss_of(story: Story, call: Row) -> Row | None:
    """The scores of a call; of equal calls at a place the first has one."""
    rows = story.children([call])
    return next((row for row in rows if row["table_name"] == TF_PERPLEXITY_SCORES.name), None)


def _in_short(story: Story, call: Row) -> str:
    """What a call saves, against the threshold that it met."""
    decisions = story.decisions([call["id"]])
    if not any(row["rule"] == "loss_reduction" for row in decisions) and not story.examples(call):
        return ""
    threshold = next((row["threshold"] for row in decisions if row["rule"] == "loss_reduction"), None)
    return savings(call, loss_of(story, call), threshold)


def _reason(story: Story, decision: Row, near: Row | None) -> str:
    """A rule's reason, with the call that it names in place of its id."""
    if near is None:
        return str(decision["reason"])
    said = str(decision["reason"]).replace(near["id"], written(near))
    if decision["rule"] == "repeated_call":
        return f"{said}, drawn at this place before"
    other = loss_of(story, near)
    if decision["rule"] != "best_at_position" or other is None or (more := losses(other).reduction) is None:
        return said
    return f"{said}: by {more:.2f} nats, this one by {decision['score']:.2f}"


def _answer(story: Story, call: Row) -> str:
    """A call, or the text of what could not be read as one."""
    return written(call) or next((row["text"] for row in story.parents([call]) if row.get("text")), "")


def _tally(calls: Sequence[Row]) -> str:
    return f"{count(len(calls), 'call')} of {count(len({call['tool'] for call in calls}), 'tool')} tried"


def _place(row: Row, calls: Sequence[Row]) -> str | None:
    """The probability of each call at its place."""
    if row["table_name"] != TF_CALL_POSITIONS.name or len(calls) > len(row["positions"]):
        return None
    here = [call for call in calls if (call["text_id"], call["tool"]) == (row["text_id"], row["tool"])]
    positions = dict.fromkeys(call["position"] for call in here if call["position"] in row["positions"])
    return "; ".join(place_sentence(row, position) for position in positions) or None


def _also(story: Story, call: Row) -> Sequence[str]:
    """The search index that a call asked."""
    index = story.iteration.rows(TF_SEARCH_INDEX, pl.col("tool") == call["tool"])
    return [row["id"] for row in index]


def _score(row: Row) -> float | None:
    return losses(row).reduction if row["table_name"] == TF_PERPLEXITY_SCORES.name else None


def _thresholds(lake: Lake, dataset: Manifest, section: CallFilterSection) -> Mapping[str, Any]:
    """The settings of a filter by name, τ_f under the name of each tool that was called."""
    results = lake.manifest(TF_TOOL_RESULTS.name, dataset.partition)
    tools = results.activity.parameters["tools"]
    by_tool = {tool: section.loss_reduction.get(tool, section.other_tools) for tool in tools}
    return {**by_tool, **section.model_dump(exclude={"loss_reduction", "other_tools"})}


def _fields(values: Mapping[str, Any], recorded: CallFilterSection) -> Mapping[str, Any]:
    """Named thresholds as the fields of an experiment's `filter` section."""
    fields = {name: value for name, value in values.items() if name in CallFilterSection.model_fields}
    by_tool = {name: value for name, value in values.items() if name not in fields}
    return {**fields, "loss_reduction": by_tool, "other_tools": recorded.other_tools}


def filter_again(lake: Lake, dataset: Manifest, section: CallFilterSection) -> pl.DataFrame:
    """Every decision on the calls of an iteration under other thresholds.

    Raises LakeError where the tables were made again since, or were not scored for so low a threshold.
    """
    frames = read_again(lake, dataset, TF_TOOL_RESULTS.name, TF_PERPLEXITY_SCORES.name, TF_SEED_POOL.name)
    try:
        return filter_calls(call_candidates(*frames), call_thresholds(section), dataset.activity.seed)[1]
    except ValueError as error:
        raise LakeError(f"{error}; materialise {TF_PERPLEXITY_SCORES.name} with it") from error


EXPLAIN = Explain(
    noun="call",
    asked="text",
    filters=[["tool_results"]],
    beside=["perplexity_scores"],
    aside={"search_index": ""},
    unmade={"raw_generations": "no call was read out of it yet"},
    tally=_tally,
    in_short=_in_short,
    reason=_reason,
    answer=_answer,
    place=_place,
    also=_also,
    score=_score,
)
WHAT_IF = Refilter(
    kind=CallFilterSection, filter_again=filter_again, thresholds=_thresholds, fields=_fields, noun="call"
)
