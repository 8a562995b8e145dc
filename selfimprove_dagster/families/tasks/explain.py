"""What explanations of methods whose model writes tasks share: how a decision names the task that is nearest."""

from __future__ import annotations

from selfimprove_dagster.families.scored.tables import score as score_of_example
from selfimprove_dagster.lineage.story import Story
from selfimprove_dagster.table import Row
from selfimprove_dagster.words import quoted

OF_EXAMPLES = ("example_perplexities", "example_ratings")
"""The stages that score examples for filters."""

BESIDE = ("perplexity_scores", "similarity_scores", *OF_EXAMPLES)
"""The stages that score candidate tasks, and examples."""

UNMADE = {
    "raw_generations": "nothing was read out of it",
    "accepted_tasks": "no instance was made of it yet",
}


def reason(story: Story, decision: Row, near: Row | None) -> str:
    """The reason of a decision, with the name of the nearest task in place of its id, and its text.

    A task that was revoked is named and not quoted.
    """
    nearest = decision["nearest_id"]
    named = name(story, nearest) if nearest else None
    if nearest is None or named is None:
        return str(decision["reason"])
    said = str(decision["reason"]).replace(nearest, named)
    if named != nearest and near is not None:
        said += f": {quoted(story.said(near))}"
    return said if decision["threshold"] is None else f"{said}, against at most {decision['threshold']:g}"


def name(story: Story, record: str) -> str | None:
    """What people call a task of a pool or an accepted one; others keep their ids.

    `the seed task of seeds.jsonl, line 12`, or `task 112 of iteration 2`: the 112th that it accepted.
    """
    row = next(iter(story.rows([record])), None)
    if row is None:
        return None
    if row.get("source_file"):
        return f"the seed task of {row['source_file']}, line {row['source_line']}"
    stage = story.stage(row)
    accepted = {
        "accepted_tasks": lambda: [row],
        "seed_pool": lambda: story.parents([row]),
        "candidate_tasks": lambda: [
            one for one in story.children([row]) if story.stage(one) == "accepted_tasks"
        ],
    }.get(stage, list)()
    for one in accepted:
        lake = story.lineage.lake
        for manifest in lake.manifests(one["table_name"], one["experiment"]):
            if manifest.iteration == one["iteration"]:
                number = lake.read_columns(manifest, ["id"])["id"].to_list().index(one["id"]) + 1
                return f"task {number} of iteration {one['iteration']}"
    return str(row["id"])


def score(row: Row) -> float | None:
    """The number of a row of scores."""
    if row["table_name"].endswith("/similarity_scores") and row["neighbours"]:
        return float(row["neighbours"][0]["rouge_l"])
    return score_of_example(row)
