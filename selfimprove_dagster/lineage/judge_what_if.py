"""Which revisions, preferences or comparisons other settings would have kept: the filters, run again."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster import judge_tables as t
from selfimprove_dagster.errors import ExperimentError, LakeError
from selfimprove_dagster.judge_candidates import revision_candidates
from selfimprove_dagster.judge_sections import PreferenceFilterSection, RevisionFilterSection
from selfimprove_dagster.lake import Lake, Manifest
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.lineage.judge_records import candidates_of
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.methods.constitutional import filter_revisions
from selfimprove_dagster.methods.preferences import (
    compared_candidates,
    filter_preferences,
    judged_candidates,
)
from selfimprove_dagster.pit_tables import PIT_SEED_POOL
from selfimprove_dagster.records import TableSchema

JudgeFilter = RevisionFilterSection | PreferenceFilterSection

SECTIONS: dict[str, tuple[str, type[JudgeFilter]]] = {
    "constitutional": ("filter", RevisionFilterSection),
    "rlaif": ("preferences", PreferenceFilterSection),
    "rlhf": ("preferences", PreferenceFilterSection),
    "pit": ("preferences", PreferenceFilterSection),
}
"""By method: the section of the experiment that says what is kept, and how it is read."""
THRESHOLDS = {
    "constitutional": ("round", "helpful_share"),
    "rlaif": ("minimum_margin",),
    "rlhf": ("minimum_margin",),
    "pit": ("minimum_margin",),
}
"""Those settings of the section by which candidates are kept."""
_READ: dict[str, tuple[TableSchema, ...]] = {
    "constitutional": (t.CAI_SEED_POOL, t.CAI_RAW_GENERATIONS, t.CAI_REVISIONS),
    "rlaif": (t.RLAIF_AI_PREFERENCES, t.RLAIF_RESPONSE_PAIRS),
    "rlhf": (t.RLHF_SEED_POOL,),
    "pit": (PIT_SEED_POOL,),
}


def aliases(method: str) -> dict[str, str]:
    """The thresholds under the names that they have in an experiment's file."""
    return {f"{SECTIONS[method][0]}.{name}": name for name in THRESHOLDS[method]}


def asked(lake: Lake, place: Place) -> list[str]:
    """The ids of the candidates that a record is, is about, was made from or was used for.

    Raises ExperimentError for a record that no candidate of one iteration stands behind.
    """
    method, stage = place.table.split("/")
    if place.iteration is None or method not in SECTIONS or stage in _AFTER:
        raise ExperimentError(
            f"{place.id} ({place.table}) was not judged by thresholds; give an iteration, as "
            f"{place.experiment}-000, or a prompt, response, preference or example of it"
        )
    row = Lineage(lake).rows([place.id], withdrawn=True)[place.id]
    iteration = Iteration(lake, place.experiment, place.iteration, method)
    return [candidate["id"] for candidate in candidates_of(iteration, row)]


_AFTER = (
    *("judge_checks", "reward_model", "rollouts", "supervised_checkpoint"),
    *("improver_checkpoint", "gap_reward_model", "curriculum_checkpoint", "curriculum_rollouts"),
    *("improvement_rounds", "win_rates", "fine_tuned_checkpoint", "evaluation", "promotion"),
)


def thresholds(lake: Lake, dataset: Manifest, section: JudgeFilter) -> dict[str, Any]:
    """The thresholds by name; the round that is meant where the section leaves it open."""
    method = dataset.table.split("/")[0]
    values = {name: getattr(section, name) for name in THRESHOLDS[method]}
    if "round" in values and values["round"] is None:
        values["round"] = _rounds(lake, dataset)
    return values


def filter_again(lake: Lake, dataset: Manifest, section: JudgeFilter) -> pl.DataFrame:
    """Every decision of the dataset's filter under other settings, with the seed of its activity.

    Raises LakeError where tables were made again since, and ExperimentError for a round that was not made.
    """
    method = dataset.table.split("/")[0]
    frames = [_read(lake, dataset, schema) for schema in _READ[method]]
    if isinstance(section, RevisionFilterSection):
        made = _rounds(lake, dataset)
        chosen = made if section.round is None else section.round
        if chosen > made:
            raise ExperimentError(f"round {chosen} was not made; {dataset.table} has rounds 0 to {made}")
        pool, responses, revisions = frames
        candidates = revision_candidates(pool, responses, revisions, section.human_responses)
        return filter_revisions(
            candidates,
            chosen_round=chosen,
            helpful_share=section.helpful_share,
            seed=dataset.activity.seed,
        )[1]
    find = judged_candidates if method == "rlaif" else compared_candidates
    return filter_preferences(find(*frames), section.minimum_margin)[1]


def _rounds(lake: Lake, dataset: Manifest) -> int:
    revisions = lake.manifest(t.CAI_REVISIONS.name, dataset.partition)
    return int(revisions.activity.parameters["revisions"]["rounds"])


def _read(lake: Lake, dataset: Manifest, schema: TableSchema) -> pl.DataFrame:
    manifest = lake.manifest(schema.name, dataset.partition)
    if manifest.activity.id not in dataset.activity.inputs:
        raise LakeError(
            f"{schema.name} was made again after the dataset {dataset.activity.id}; "
            f"materialise {dataset.table} again before asking what other thresholds would keep"
        )
    return lake.read_whole(manifest)
