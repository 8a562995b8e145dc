"""The tasks of a pool that stand nearest to a candidate, as they were when it was judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfimprove_dagster.families.tasks.explain import TaskRecords, text_of
from selfimprove_dagster.families.tasks.statistics import length_histogram, verb_noun_counts
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.methods.self_instruct.tables import SI_CANDIDATE_TASKS, SI_SIMILARITY_SCORES


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


_PAIRS = 20
"""Pairs of a verb and its object that a page lists."""


def pool_of(lake: Lake, name: str, iteration: int, stages: Mapping[str, Manifest]) -> dict[str, Any] | None:
    """Growth, pairs of verb and object, lengths; None where there is no pool of tasks."""
    pool, accepted = stages.get("seed_pool"), stages.get("accepted_tasks")
    if pool is None or "pool_decisions" not in stages:
        return None
    manifests = [one for one in lake.manifests(pool.table, name) if one.iteration <= iteration]
    origins = [lake.read_columns(one, ["origin"])["origin"] for one in manifests]
    people = [int((origin == "human").sum()) for origin in origins]
    texts = lake.read_columns(pool, ["instruction"])["instruction"].to_list()
    if accepted is not None:
        texts += lake.read_columns(accepted, ["instruction"])["instruction"].to_list()
    pairs = verb_noun_counts(texts)
    lengths = length_histogram(texts)
    most = max((count for *_, count in lengths), default=1)
    return {
        "tasks": len(texts),
        "growth": {
            "id": "growth",
            "title": "Pool",
            "about": "Tasks that the prompts of each iteration could show, up to this one.",
            "percent": False,
            "x": [one.iteration for one in manifests],
            "xlabel": "iteration",
            "series": [
                {"name": series, "values": values, "intervals": [None] * len(values)}
                for series, values in (
                    ("by people", people),
                    ("all", [len(origin) for origin in origins]),
                )
            ],
        },
        "pairs": [(verb, noun, count) for (verb, noun), count in pairs.most_common(_PAIRS)],
        "distinct_pairs": len(pairs),
        "lengths": [(f"{least} to {last}", count, count / most) for least, last, count in lengths],
    }
