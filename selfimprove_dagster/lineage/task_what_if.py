"""What other thresholds would have let into the pool: Self-Instruct's rules, run again over its candidates.

Nothing is generated: what a candidate's instances would have been, had it joined, stays unknown.
"""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.errors import ExperimentError, LakeError
from selfimprove_dagster.lake import Lake, Manifest
from selfimprove_dagster.lineage.main_line import main_line
from selfimprove_dagster.lineage.task_records import TaskRecords
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.methods.tasks import normalise_instruction
from selfimprove_dagster.task_files import BannedInstruction
from selfimprove_dagster.task_filters import admit, apply_novelty, apply_rules
from selfimprove_dagster.task_sections import TaskFilterSection
from selfimprove_dagster.task_tables import (
    SI_CANDIDATE_TASKS,
    SI_PERPLEXITY_SCORES,
    SI_RAW_GENERATIONS,
    SI_SEED_POOL,
    SI_TASK_DECISIONS,
)

THRESHOLDS = ("maximum_rouge_l", "maximum_perplexity", "least_words", "most_words")
"""The fields of an experiment's `filter` section that decide which tasks join the pool."""
ALIASES = {"novelty": "maximum_rouge_l", "perplexity": "maximum_perplexity"}


def candidates_of(lake: Lake, place: Place) -> tuple[int, list[str]]:
    """The iteration whose candidates a record is, was made from, or holds; and their ids.

    Raises ExperimentError for a record that no candidate stands behind.
    """
    lineage = Lineage(lake)
    for row in main_line(lineage, place.id):
        if row["table_name"] == SI_CANDIDATE_TASKS.name:
            return row["iteration"], [row["id"]]
        if row["table_name"] == SI_RAW_GENERATIONS.name:
            records = TaskRecords(lake, lineage, place.experiment, "self_instruct")
            read = records.rows(row["iteration"], "candidate_tasks", "completion_id", [row["id"]])
            return row["iteration"], [one["id"] for one in read]
    raise ExperimentError(
        f"{place.id} ({place.table}) was not judged by thresholds; give an iteration, as "
        f"{place.experiment}-000, or a candidate, accepted task, instance or example"
    )


def filter_again(lake: Lake, accepted: Manifest, section: TaskFilterSection) -> pl.DataFrame:
    """Every decision on the candidates of an iteration, under other thresholds, novelty last.

    Raises LakeError where the tables that the rules read were made again since.
    """

    frames = {}
    for schema in (SI_CANDIDATE_TASKS, SI_PERPLEXITY_SCORES):
        manifest = lake.manifest(schema.name, accepted.partition)
        if manifest.activity.id not in accepted.activity.inputs:
            raise LakeError(
                f"{schema.name} was made again after the accepted tasks {accepted.activity.id}; materialise "
                f"{accepted.table} again before asking what other thresholds would keep"
            )
        frames[schema.name] = lake.read_whole(manifest)
    pool = lake.manifest(SI_SEED_POOL.name, accepted.partition)
    ruled, decisions = apply_rules(
        frames[SI_CANDIDATE_TASKS.name],
        frames[SI_PERPLEXITY_SCORES.name],
        section,
        _bans(lake, accepted, pool),
    )
    _, on_novelty = apply_novelty(ruled, admit(lake.read_whole(pool), ruled, section), section)
    return pl.concat([decisions, on_novelty])


def _bans(lake: Lake, accepted: Manifest, pool: Manifest) -> dict[str, BannedInstruction]:
    """What was banned then: the pool's activity names the instructions, the decisions who said so."""
    decisions = lake.read_whole(lake.manifest(SI_TASK_DECISIONS.name, accepted.partition))
    told = decisions.filter(pl.col("rule") == "banned", ~pl.col("kept"))
    candidates = lake.read_whole(lake.manifest(SI_CANDIDATE_TASKS.name, accepted.partition))
    reasons = {
        normalise_instruction(text): reason.removeprefix("banned by ")
        for text, reason in told.join(candidates, left_on="candidate_id", right_on="id")
        .select("instruction", "reason")
        .iter_rows()
    }
    bans = {}
    for key in pool.activity.parameters["banned"]:
        by, _, why = reasons.get(key, "a person: in the file of bans").partition(": ")
        bans[key] = BannedInstruction(key, by, why, "", 0)
    return bans
