"""What explanations of methods with preferences share: the stages aside, and the filter of pairs run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from selfimprove_dagster.families.dialogues.words import choice
from selfimprove_dagster.families.preferences.filters import filter_preferences
from selfimprove_dagster.families.preferences.settings import PreferenceFilterSection
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.story import Story
from selfimprove_dagster.lineage.what_if import Refilter, read_again
from selfimprove_dagster.table import Row, Table

ASIDE = {"rollouts": "the policy wrote it while it was trained, and no dataset holds it: "}
"""Stages of which no candidate is made, each with the beginning of the verdict on its rows."""

JUDGEMENTS = ("rollouts",)
"""Stages of which no example is made, models aside."""


def pair_in_short(story: Story, candidate: Row) -> str:
    """Who chose which response over which, and the margin of a pair that was kept."""
    chooser = next((str(row["labelled_by"]) for row in story.examples(candidate)), "people")
    return f"{chooser} chose {choice(candidate)}{margin(story, candidate)}"


def margin(story: Story, candidate: Row) -> str:
    """The margin of a candidate that became an example."""
    if not story.examples(candidate):
        return ""
    rows = story.decisions([candidate["id"]])
    return next((f"; {row['reason']}" for row in rows if row["rule"] == "margin"), "")


def thresholds_of(*names: str) -> Callable[[Lake, Manifest, Any], Mapping[str, Any]]:
    """A function that reads these settings of a section."""

    def thresholds(lake: Lake, dataset: Manifest, section: Any) -> Mapping[str, Any]:
        return {name: getattr(section, name) for name in names}

    return thresholds


def refilter_pairs(candidates: Callable[..., pl.DataFrame], *tables: Table, noun: str) -> Refilter:
    """The filter of pairs run again; `candidates` makes them from the tables."""

    def filter_again(lake: Lake, dataset: Manifest, section: PreferenceFilterSection) -> pl.DataFrame:
        frames = read_again(lake, dataset, *(table.name for table in tables))
        return filter_preferences(candidates(*frames), section.minimum_margin, section.hard_labels)[1]

    return Refilter(
        kind=PreferenceFilterSection,
        filter_again=filter_again,
        section="preferences",
        thresholds=thresholds_of("minimum_margin"),
        aliases={"preferences.minimum_margin": "minimum_margin"},
        noun=noun,
    )
