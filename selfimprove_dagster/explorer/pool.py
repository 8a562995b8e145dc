"""The pool of tasks after an iteration: how it grew, and how varied its instructions are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfimprove_dagster.lake import Lake, Manifest
from selfimprove_dagster.methods.self_instruct.statistics import length_histogram, verb_noun_counts

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
