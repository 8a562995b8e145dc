"""The tasks of a pool that stand nearest to a candidate, as they were when it was judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfimprove_dagster.lake import Lake
from selfimprove_dagster.lineage import Lineage
from selfimprove_dagster.lineage.task_records import TaskRecords
from selfimprove_dagster.lineage.task_words import text_of
from selfimprove_dagster.task_tables import SI_CANDIDATE_TASKS, SI_SIMILARITY_SCORES


def nearest_tasks(
    lineage: Lineage, lake: Lake, row: Mapping[str, Any], withdrawn: set[str]
) -> dict[str, Any] | None:
    """The verdict and the neighbours of a candidate of Self-Instruct, of its scores, or of the accepted task.

    None for other records. Of a neighbour that was revoked, nothing but the score is said.
    """
    method, stage = row["table_name"].split("/")
    candidate = row["id"] if row["table_name"] == SI_CANDIDATE_TASKS.name else row.get("candidate_id")
    if method != "self_instruct" or candidate is None or stage in ("pool_decisions", "decisions"):
        return None
    records = TaskRecords(lake, lineage, row["experiment"], method)
    scores = records.rows(row["iteration"], "similarity_scores", "candidate_id", [candidate])
    if not scores:
        return None
    score = scores[0]
    manifest = records.iteration(row["iteration"]).manifests[SI_SIMILARITY_SCORES.name]
    threshold = manifest.activity.parameters["maximum_rouge_l"]
    known = [near["id"] for near in score["neighbours"] if near["id"] not in withdrawn]
    names, rows = records.names(known), lineage.rows(known)
    return {
        "kept": score["kept"],
        "pool": score["pool"],
        "threshold": threshold,
        "tasks": [
            {
                **near,
                "name": names.get(near["id"], "revoked"),
                "text": text_of(rows[near["id"]]) if near["id"] in rows else "revoked",
                "too_near": near["rouge_l"] > threshold,
            }
            for near in score["neighbours"]
        ],
    }
