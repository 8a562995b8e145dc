"""What the page of one record shows: what it says, why it is where it is, where from, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import quote

import polars as pl

from selfimprove_dagster import registry, tables
from selfimprove_dagster.explorer.graph import Family
from selfimprove_dagster.explorer.views import flat
from selfimprove_dagster.families.preferences.explain import METHODS as JUDGE_METHODS
from selfimprove_dagster.families.preferences.pages import judged_record
from selfimprove_dagster.families.tasks.explain import TASK_METHODS
from selfimprove_dagster.families.tasks.pages import nearest_tasks
from selfimprove_dagster.families.tasks.tables import SEED_TASKS
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.revocations import Revocation
from selfimprove_dagster.lake.taint import tainted_models
from selfimprove_dagster.lineage.explain import explain, path_of
from selfimprove_dagster.lineage.explanation import Explanation
from selfimprove_dagster.lineage.iteration import Iteration
from selfimprove_dagster.lineage.main_line import without_ancestors_of_the_shown
from selfimprove_dagster.lineage.walk import Lineage, Place, RecordNotFound, Walk
from selfimprove_dagster.methods.lmsi.tables import SEED_POOL, VOTED_ANSWERS
from selfimprove_dagster.methods.toolformer.explain import METHOD as TOOL_METHOD
from selfimprove_dagster.methods.toolformer.pages import calls_of_record
from selfimprove_dagster.table import COMMON_COLUMNS

Row = dict[str, Any]


KINDS = {
    "accepted": "Seed",
    "rejected": "Rejected line",
    "demonstrations": "Demonstration",
    "seed_pool": "Question",
    "raw_generations": "Path",
    "perplexity_scores": "Perplexity score",
    "voted_answers": "Vote",
    "decisions": "Decision",
    "filtered_dataset": "Training example",
    "fine_tuned_checkpoint": "Checkpoint",
    "evaluation": "Held-out answer",
    "promotion": "Promotion",
    "tasks": "Seed task",
    "pool_decisions": "Decision",
    "candidate_tasks": "Candidate task",
    "similarity_scores": "Similarity to the pool",
    "task_decisions": "Decision",
    "accepted_tasks": "Accepted task",
    "classified_tasks": "Class of a task",
    "instance_generations": "Examples as drawn",
    "task_instances": "Instance",
    "task_outputs": "Output",
    "paraphrases": "Paraphrase",
    "texts": "Seed text",
    "search_index": "Search index",
    "call_positions": "Places for calls",
    "tool_results": "Call",
    "prompts": "Seed prompt",
    "comparisons": "Comparison",
    "critiques": "Critique",
    "revisions": "Revision",
    "response_pairs": "Response of a pair",
    "ai_preferences": "Preference",
    "judge_checks": "Measure of the judge",
    "reward_model": "Reward model",
    "rollouts": "Rollout",
    "supervised_checkpoint": "Supervised model",
    "questions": "Question to measure by",
    "candidates": "Candidate",
    "generation_score": "Generation score",
    "discrimination_score": "Pick among candidates",
    "discrimination_gap": "Discrimination gap",
    "improver_dataset": "Example of improving",
    "improver_checkpoint": "Improver",
    "gap_pairs": "Comparison of gaps",
    "gap_reward_model": "Gap reward model",
    "curriculum_rollouts": "Rollout of the first phase",
    "curriculum_checkpoint": "Policy of the first phase",
    "policy_references": "Reference of the second phase",
    "improvement_rounds": "Held-out response",
    "win_rates": "Contest of held-out responses",
    "review_queue": "Item for review",
    "labels": "What a person said",
    "refinements": "Step of a refinement",
}
"""What people call a record, by stage."""


_OF_TASKS = {"seed_pool": "Task of the pool", "raw_generations": "Completion"}


_OF_TOOLS = {
    "seed_pool": "Text",
    "raw_generations": "Call as it was drawn",
    "perplexity_scores": "Losses with a call",
}


_OF_JUDGED = {"seed_pool": "Prompt", "raw_generations": "First response", "evaluation": "Held-out response"}


_TEXTS = (
    *("question", "instruction", "input", "constraints", "output", "paraphrase"),
    *("prompt", "text", "completion", "reasoning", "excerpt", "option_a", "option_b", "note"),
    *("response", "chosen", "rejected", "first_prompt", "first", "second_prompt", "second", "statement"),
)


_TAGS = {schema.tag for schema in tables.TABLES.values()} | {"act"}


_HIDDEN = {*COMMON_COLUMNS, "table_name", "activity", "experiment", "iteration", "batch"}


_BULKY = {
    *("prompt_token_ids", "token_ids", "logprobs", "log", "votes", "paths", "neighbours", "instances"),
    *("positions", "probabilities", "calls", "prompts", "texts", "gap_means", "gap_order"),
}


_MOST = 400
"""Ancestors that a page draws and lists; a record of this library has far fewer."""


_LISTED = 20


def record(lake: Lake, prefix: str) -> dict[str, Any]:
    """The page of the one record whose id begins with `prefix`. Raises RecordNotFound."""
    lineage = Lineage(lake)
    try:
        place = lineage.find(prefix)
    except RecordNotFound:
        _refuse_if_purged(lake, prefix)
        raise
    method, stage = place.table.split("/")
    kind = KINDS.get(stage, place.table)
    if method in TASK_METHODS:
        kind = _OF_TASKS.get(stage, kind)
    if method == TOOL_METHOD:
        kind = _OF_TOOLS.get(stage, kind)
    if method in JUDGE_METHODS:
        kind = _OF_JUDGED.get(stage, kind)
    shown: dict[str, Any] = {"id": place.id, "place": place, "kind": kind, "revoked": revocation(lake, place)}
    down = lineage.descendants([place.id])
    shown["offspring"] = _counted(down, place.id)
    if shown["revoked"]:
        return shown
    up = without_ancestors_of_the_shown(lineage.ancestors([place.id]), place.id)
    of_seed = _of_seed(lineage, place, up)
    examples = _examples(of_seed or down, place.id)
    rows = lineage.rows([*up.nodes["id"].head(_MOST), *examples])
    if place.id not in rows:
        raise RecordNotFound(f"{place.id} has just been replaced: its table was materialised again")
    row, withdrawn = rows[place.id], _withdrawn(lake, place)
    explained = _without(withdrawn, explain(lake, place.id))
    family = Family(place.id, up, rows)
    return shown | {
        "row": row,
        "texts": _texts(row),
        "facts": [
            (name, value, isinstance(value, str) and value.split(":")[0] in _TAGS and ":" in value)
            for name, value in row.items()
            if name not in _HIDDEN | _BULKY and name not in _TEXTS and value is not None
        ],
        "activity": row["activity"],
        "settings": flat(row["activity"].get("parameters", {})),
        "tainted": _tainted(lake, place, row),
        "explanation": explained,
        "nearest": nearest_tasks(lineage, lake, row, withdrawn),
        "calls": calls_of_record(lake, row, withdrawn),
        "judged": judged_record(lake, row, withdrawn),
        "ballot": _ballot(lake, place, row, up, withdrawn),
        "loss": _loss(row) if "log" in row else None,
        "graph": family.graph(),
        "tree": family.tree(),
        "seed": next(iter(_seeds(place, up)), None),
        "of_seed": _counted(of_seed, place.id) if of_seed else [],
        "examples": [rows[example] for example in examples if example in rows],
    }


def whole_text(lake: Lake, prefix: str) -> str:
    """Every text of a record, each under its name, uncut."""
    lineage = Lineage(lake)
    place = lineage.find(prefix)
    row = lineage.rows([place.id]).get(place.id)
    if row is None or revocation(lake, place):
        return f"{place.id}: revoked"
    return "\n\n".join(f"# {name}\n{text}" for name, text in _texts(row))


def _texts(row: Row) -> list[tuple[str, str]]:
    """What a record says, by name; a task's instances one after another."""
    named = [name for name in _TEXTS if name != "question" or "instruction" not in row]
    texts = [(name, row[name]) for name in named if isinstance(row.get(name), str) and row[name]]
    if "answer" in row and "instruction" in row:
        texts.append(("output", row["answer"]))
    for number, one in enumerate(row.get("instances") or (), start=1):
        texts += [(f"{name} {number}", one[name]) for name in ("input", "output") if one[name]]
    return texts


def place_of_activity(lake: Lake, identifier: str) -> str | None:
    """Where the pages show what is no row: a dataset by its activity, a model by its hash; None for records.

    Raises RecordNotFound for a model that no checkpoint of the lake is.
    """
    if identifier.startswith("act:"):
        for manifest in lake.manifests():
            if manifest.activity.id == identifier:
                return _page_of(manifest)
    if identifier.startswith("b2:"):
        for manifest in lake.manifests():
            if not registry.table_of(manifest).holds_model:
                continue
            trained = lake.read_ungated(manifest).filter(model_id=identifier)
            if len(trained):
                return f"/records/{trained['id'][0]}"
        raise RecordNotFound(f"{identifier} is a model that was not trained here: a base model, most likely")
    return None


def _page_of(manifest: Manifest) -> str:
    page = f"/experiments/{quote(manifest.experiment)}"
    if manifest.iteration < 0:
        return page
    dataset = manifest.table.endswith("/filtered_dataset")
    return f"{page}/{manifest.iteration}" + ("/examples" if dataset else "")


def revocation(lake: Lake, place: Place) -> Revocation | None:
    """The revocation under which a record fell."""
    for manifest in lake.manifests(place.table, place.experiment):
        if place.iteration in (None, manifest.iteration):
            found = lake.withdrawn(manifest).get(place.id)
            if found:
                return next(entry for entry in lake.ledger.revocations() if entry.id == found)
    return None


def _refuse_if_purged(lake: Lake, record: str) -> None:
    fallen = lake.ledger.all_withdrawn().filter(id=record)
    if len(fallen):
        raise RecordNotFound(f"{record} was revoked by {fallen['revocation'][0]} and purged from the disk")


def _withdrawn(lake: Lake, place: Place) -> set[str]:
    """Ids of what was withdrawn from the tables that a record's explanation reads.

    A task may stand near to one of any earlier iteration; of votes, the own iteration is enough.
    """
    of_votes = place.table.split("/")[0] == "lmsi"
    return {
        fallen
        for manifest in lake.manifests(experiment=place.experiment)
        if manifest.iteration in (place.iteration, -1) or not of_votes
        for fallen in lake.withdrawn(manifest)
    }


def _without(withdrawn: set[str], explanation: Explanation) -> Explanation:
    """The explanation without what revoked records say."""
    steps = (
        replace(step, reason="revoked", rule=None) if step.record in withdrawn else step
        for step in explanation.steps
    )
    fates = (fate for fate in explanation.fates if fate.path not in withdrawn)
    return replace(explanation, steps=tuple(steps), fates=tuple(fates))


def _ids(walk: Walk, table: str) -> list[str]:
    return walk.nodes.filter(pl.col("table_name") == table)["id"].to_list()


def _of_seed(lineage: Lineage, place: Place, up: Walk) -> Walk | None:
    """What came of the seed of an example: its brothers of all iterations."""
    seeds = _seeds(place, up)
    if not seeds or not place.table.endswith("/filtered_dataset"):
        return None
    return lineage.descendants(seeds)


def _seeds(place: Place, up: Walk) -> list[str]:
    """The seeds of a question or text; tasks have too many to be told."""
    schema = tables.SEEDS_OF.get(place.table.split("/")[0])
    return [] if schema in (None, SEED_TASKS) else _ids(up, schema.name)


def _examples(walk: Walk, besides: str) -> list[str]:
    """The first examples of a walk down."""
    found = walk.nodes.filter(
        pl.col("table_name").str.ends_with("/filtered_dataset") & (pl.col("id") != besides)
    )
    return found.sort("iteration", "id")["id"].head(_LISTED).to_list()


def _counted(walk: Walk, besides: str) -> list[dict[str, Any]]:
    """How many records of each table and iteration a walk reached, and the first of them."""
    nodes = walk.nodes.filter(
        pl.col("table_name").is_not_null() & (pl.col("depth") > 0) & (pl.col("id") != besides)
    )
    counts = nodes.group_by("table_name", "experiment", "iteration").agg(
        pl.len().alias("count"), pl.col("id").head(3)
    )
    order = {table: position for position, table in enumerate(tables.TABLES)}
    return sorted(
        counts.rows(named=True),
        key=lambda row: (order.get(row["table_name"], len(order)), row["iteration"] or 0),
    )


def _ballot(lake: Lake, place: Place, row: Row, up: Walk, withdrawn: set[str]) -> dict[str, Any] | None:
    """The vote on the question that a record belongs to: its answers, and the paths behind each."""
    questions = _ids(up, SEED_POOL.name)
    if len(questions) != 1 or place.iteration is None:
        return None
    iteration = Iteration(lake, place.experiment, place.iteration)
    vote = iteration.row(VOTED_ANSWERS, "question_id", questions[0])
    if not vote or vote["id"] in withdrawn:
        return None
    about = path_of(place.table, row)
    answers: dict[str | None, list[dict[str, Any]]] = {entry["answer"]: [] for entry in vote["votes"]}
    for fate in iteration.fates(questions[0]):
        if fate.path not in withdrawn:
            answers.setdefault(fate.answer, []).append(asdict(fate) | {"this": fate.path == about})
    return {
        "vote": vote,
        "answers": [
            {
                "answer": answer,
                "paths": paths,
                "share": len(paths) / max(1, vote["n_paths"]),
                "voted": answer is not None and answer == vote["voted_answer"],
            }
            for answer, paths in answers.items()
        ],
    }


def _tainted(lake: Lake, place: Place, row: Row) -> str | None:
    """Why a model is tainted; "" when it is clean, None for what is none."""
    table = registry.tables().get(place.table)
    if table is None or not table.holds_model:
        return None
    return tainted_models(lake, place.experiment).get(row["model_id"], "")


def _loss(row: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's loss by step, as a chart."""
    log: Sequence[Mapping[str, Any]] = row["log"] or []
    return {
        "id": "loss",
        "title": "Training loss",
        "about": "By optimiser step.",
        "percent": False,
        "xlabel": "step",
        "x": [entry["step"] for entry in log],
        "series": [
            {"name": "loss", "values": [entry["loss"] for entry in log], "intervals": [None] * len(log)}
        ],
    }
