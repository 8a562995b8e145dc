"""The words of explanations of revisions, and the filter of revisions run again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.families.scored.tables import score
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.story import Explain, Story
from selfimprove_dagster.lineage.what_if import Refilter, read_again
from selfimprove_dagster.methods.constitutional.constitutional import filter_revisions, revision_candidates
from selfimprove_dagster.methods.constitutional.settings import RevisionFilterSection
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
    CAI_SEED_POOL,
)
from selfimprove_dagster.methods.constitutional.words import round_of
from selfimprove_dagster.table import Row
from selfimprove_dagster.words import quoted


def _in_short(story: Story, candidate: Row) -> str:
    if candidate["table_name"] == CAI_SEED_POOL.name:
        return "a person's response"
    if candidate["table_name"] == CAI_RAW_GENERATIONS.name:
        return "the first response"
    critiques = [row for row in story.parents([candidate]) if row["table_name"] == CAI_CRITIQUES.name]
    return round_of(candidate) + "".join(f": critique {quoted(row['text'])}" for row in critiques)


def _answer(story: Story, candidate: Row) -> str:
    """A person's response where a prompt has one, or what the model said."""
    return str(candidate["response"]).strip() if candidate.get("response") else story.said(candidate)


def _undecided(story: Story, candidate: Row) -> str | None:
    prompt = next((row for row in story.line(candidate) if row["table_name"] == CAI_SEED_POOL.name), {})
    return "a person's response to its prompt is used in its place" if prompt.get("response") else None


def _thresholds(lake: Lake, dataset: Manifest, section: RevisionFilterSection) -> Mapping[str, Any]:
    """The thresholds; the round that is meant where the section leaves it open."""
    chosen = _rounds(lake, dataset) if section.round is None else section.round
    return {"round": chosen, "helpful_share": section.helpful_share}


def _rounds(lake: Lake, dataset: Manifest) -> int:
    revisions = lake.manifest(CAI_REVISIONS.name, dataset.partition)
    return int(revisions.activity.parameters["revisions"]["rounds"])


def filter_again(lake: Lake, dataset: Manifest, section: RevisionFilterSection) -> pl.DataFrame:
    """Every decision of the dataset's filter under other settings, with the seed of its activity.

    Raises LakeError where tables were made again since, and ExperimentError for a round that was not made.
    """
    pool, first, revised = read_again(
        lake, dataset, CAI_SEED_POOL.name, CAI_RAW_GENERATIONS.name, CAI_REVISIONS.name
    )
    made = _rounds(lake, dataset)
    chosen = made if section.round is None else section.round
    if chosen > made:
        raise ExperimentError(f"round {chosen} was not made; {dataset.table} has rounds 0 to {made}")
    candidates = revision_candidates(pool, first, revised, section.human_responses)
    _, decisions = filter_revisions(
        candidates, chosen_round=chosen, helpful_share=section.helpful_share, seed=dataset.activity.seed
    )
    return decisions


EXPLAIN = Explain(
    noun="candidate",
    asked="prompt",
    filters=[["raw_generations", "revisions"]],
    beside=["example_perplexities", "example_ratings"],
    score=score,
    unmade={"critiques": "nothing was revised by it yet"},
    in_short=_in_short,
    answer=_answer,
    undecided=_undecided,
)
WHAT_IF = Refilter(
    kind=RevisionFilterSection,
    filter_again=filter_again,
    thresholds=_thresholds,
    aliases={"filter.round": "round", "filter.helpful_share": "helpful_share"},
)
