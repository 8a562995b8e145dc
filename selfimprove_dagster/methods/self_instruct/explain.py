"""The words of explanations of candidate tasks and their instances, and the filter of tasks run again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from selfimprove_dagster.families.tasks.explain import BESIDE, UNMADE, reason, score
from selfimprove_dagster.families.tasks.files import BannedInstruction
from selfimprove_dagster.families.tasks.tasks import normalise_instruction
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.story import Explain
from selfimprove_dagster.lineage.what_if import Refilter, read_again
from selfimprove_dagster.methods.self_instruct.admission import (
    admit,
    apply_novelty,
    apply_rules,
    scored_candidates,
)
from selfimprove_dagster.methods.self_instruct.settings import TaskFilterSection
from selfimprove_dagster.methods.self_instruct.tables import (
    SI_CANDIDATE_TASKS,
    SI_PERPLEXITY_SCORES,
    SI_SEED_POOL,
    SI_TASK_DECISIONS,
)

THRESHOLDS = ("maximum_rouge_l", "maximum_perplexity", "least_words", "most_words")
"""The fields of an experiment's `filter` section that decide which tasks join the pool."""


def _thresholds(lake: Lake, accepted: Manifest, section: TaskFilterSection) -> Mapping[str, Any]:
    return {name: getattr(section, name) for name in THRESHOLDS}


def filter_again(lake: Lake, accepted: Manifest, section: TaskFilterSection) -> pl.DataFrame:
    """Every decision on the candidates of an iteration, under other thresholds, novelty last.

    Raises LakeError where the tables that the rules read were made again since.
    """
    candidates, scores = read_again(lake, accepted, SI_CANDIDATE_TASKS.name, SI_PERPLEXITY_SCORES.name)
    pool = lake.manifest(SI_SEED_POOL.name, accepted.partition)
    ruled, decisions = apply_rules(
        scored_candidates(candidates, scores), section, _bans(lake, accepted, pool)
    )
    _, on_novelty = apply_novelty(ruled, admit(lake.read_whole(pool), ruled, section), section)
    return pl.concat([decisions, on_novelty])


def _bans(lake: Lake, accepted: Manifest, pool: Manifest) -> dict[str, BannedInstruction]:
    """The bans of that time: the pool's activity names the instructions, the decisions who banned them."""
    decisions = lake.read_whole(lake.manifest(SI_TASK_DECISIONS.name, accepted.partition))
    banned = decisions.filter(pl.col("rule") == "banned", ~pl.col("kept"))
    candidates = lake.read_whole(lake.manifest(SI_CANDIDATE_TASKS.name, accepted.partition))
    reasons = {
        normalise_instruction(text): reason.removeprefix("banned by ")
        for text, reason in banned.join(candidates, left_on="candidate_id", right_on="id")
        .select("instruction", "reason")
        .iter_rows()
    }
    bans = {}
    for key in pool.activity.parameters["banned"]:
        by, _, why = reasons.get(key, "a person: in the file of bans").partition(": ")
        bans[key] = BannedInstruction(key, by, why, "", 0)
    return bans


EXPLAIN = Explain(
    noun="candidate",
    asked="instruction",
    filters=[["candidate_tasks"], ["task_instances"]],
    beside=BESIDE,
    shows=True,
    unmade=UNMADE,
    reason=reason,
    score=score,
)
WHAT_IF = Refilter(
    kind=TaskFilterSection,
    filter_again=filter_again,
    stage="accepted_tasks",
    decisions="task_decisions",
    thresholds=_thresholds,
    aliases={"novelty": "maximum_rouge_l", "perplexity": "maximum_perplexity"},
)
