"""The pages of Self-Instruct: those of its family, and the tasks of the pool nearest to a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfimprove_dagster.explorer.curves import Curve
from selfimprove_dagster.explorer.declare import AboutRecord, RecordBlock
from selfimprove_dagster.explorer.listings import SO_FAR, Column, dropped
from selfimprove_dagster.families.tasks.explain import name
from selfimprove_dagster.families.tasks.pages import card, examples, pages
from selfimprove_dagster.lineage.story import Story
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.methods.self_instruct.tables import (
    SI_CANDIDATE_TASKS,
    SI_DECISIONS,
    SI_POOL_DECISIONS,
    SI_SIMILARITY_SCORES,
)
from selfimprove_dagster.table import Row


def nearest_tasks(lineage: Lineage, row: Mapping[str, Any], withdrawn: set[str]) -> Row | None:
    """The verdict on a candidate and its nearest tasks, for its record, its scores and the accepted task.

    None for other records. A revoked neighbour is shown by its score alone.
    """
    candidate = row["id"] if row["table_name"] == SI_CANDIDATE_TASKS.name else row.get("candidate_id")
    if candidate is None or row["table_name"] in (SI_POOL_DECISIONS.name, SI_DECISIONS.name):
        return None
    place = Place(row["id"], row["table_name"], row["experiment"], row["iteration"])
    story = Story(lineage, place, dict(row))
    score = story.iteration.row(SI_SIMILARITY_SCORES, "candidate_id", candidate)
    if not score:
        return None
    manifest = story.iteration.manifests[SI_SIMILARITY_SCORES.name]
    threshold = manifest.activity.parameters["maximum_rouge_l"]
    known = [near["id"] for near in score["neighbours"] if near["id"] not in withdrawn]
    rows = lineage.rows(known)
    return {
        "kept": score["kept"],
        "pool": score["pool"],
        "threshold": threshold,
        "tasks": [
            {
                **near,
                "name": name(story, near["id"]) if near["id"] in known else "revoked",
                "text": story.said(rows[near["id"]]) if near["id"] in rows else "revoked",
                "too_near": near["rouge_l"] > threshold,
            }
            for near in score["neighbours"]
        ],
    }


def _nearest(about: AboutRecord) -> Row | None:
    return nearest_tasks(about.lineage, about.row, about.withdrawn)


_TEXTS = (
    "SELECT id AS of, instruction AS title, concat_ws(' → ', nullif(input, ''), output) AS body "
    f'FROM "self_instruct"."task_instances" {SO_FAR}'
)


_SCORES = (
    Column("ROUGE-L", "rouge_l", "rouge", True),
    Column("perplexity", "perplexity", "perplexity", True),
)


PAGES = pages(
    "self_instruct",
    examples("self_instruct", _SCORES),
    "problem",
    dropped(
        "self_instruct",
        "decisions",
        "Instances of all iterations so far that did not become training examples, each with the rule that dropped it.",
        "instance",
        _TEXTS,
        ("task_instances",),
        "instruction, input and output",
    ),
    "Instances",
    Curve("perplexity", "Perplexity", "Mean over all candidate instructions, under the model."),
    record=[RecordBlock(Path(__file__).with_name("nearest.html"), _nearest)],
)
CARD = card("self_instruct")
