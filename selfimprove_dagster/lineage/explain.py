"""Why a record is in the training set, or why not: every decision on it and on what it was made from."""

from __future__ import annotations

from collections import Counter

import polars as pl

from selfimprove_dagster import tables
from selfimprove_dagster.families.preferences.explain import TABLES as JUDGED
from selfimprove_dagster.families.preferences.explain import explain_judged
from selfimprove_dagster.families.tasks.explain import explain_task, method_of
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.explanation import (
    Explanation,
    Use,
    count,
    dropped_verdict,
    explanation,
    training_verdict,
    uses_of,
)
from selfimprove_dagster.lineage.iteration import (
    Fate,
    Iteration,
    Step,
    all_revoked,
    revoked,
    rows_of,
    source_of,
)
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    DEMONSTRATIONS,
    FILTERED_DATASET,
    PERPLEXITY_SCORES,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)
from selfimprove_dagster.methods.refinement.explain import explain_refined
from selfimprove_dagster.methods.refinement.tables import METHOD as REFINEMENT
from selfimprove_dagster.methods.self_knowledge.explain import TABLES as SELF_KNOWLEDGE
from selfimprove_dagster.methods.self_knowledge.explain import sentence
from selfimprove_dagster.methods.toolformer.explain import explain_tool
from selfimprove_dagster.methods.toolformer.tables import SEED_TEXTS
from selfimprove_dagster.methods.toolformer.tables import TABLES as TOOL_TABLES
from selfimprove_dagster.review.tables import REVIEW_LABELS
from selfimprove_dagster.seeds.tables import REJECTED_SEEDS
from selfimprove_dagster.table import Row
from selfimprove_dagster.tables import TASK_TABLES

__all__ = ["Explanation", "Use", "explain", "path_of"]


_OF_TASKS = {schema.name for schema in TASK_TABLES}


_OF_TOOLS = {schema.name for schema in (SEED_TEXTS, *TOOL_TABLES)}


_SHARED = ("fine_tuned_checkpoint", "evaluation", "promotion")


def explain(lake: Lake, prefix: str) -> Explanation:
    """The explanation of the one record whose id begins with `prefix`. Raises RecordNotFound."""
    lineage = Lineage(lake)
    place = lineage.find(prefix)
    method, stage = place.table.split("/")
    if place.table in _OF_TASKS and stage not in _SHARED:
        return explain_task(lake, lineage, place)
    if place.table in _OF_TOOLS and stage not in _SHARED:
        return explain_tool(lake, lineage, place)
    if method_of(lake, place.table, place.experiment) == REFINEMENT and stage not in _SHARED:
        return explain_refined(lake, lineage, place)
    if place.table in SELF_KNOWLEDGE:
        return _explain_measurement(lake, place, lineage.rows([place.id], withdrawn=True)[place.id])
    if place.table in JUDGED and stage not in _SHARED:
        return explain_judged(lake, lineage, place)
    if place.table == REVIEW_LABELS.name:
        return _explain_label(lake, place, lineage.rows([place.id], withdrawn=True)[place.id])
    if place.iteration is None:
        return _explain_source(lake, place)
    iteration = Iteration(lake, place.experiment, place.iteration, method)
    row = iteration.row(tables.TABLES[place.table], "id", place.id)
    if place.table in (SEED_POOL.name, VOTED_ANSWERS.name):
        return _explain_question(iteration, place, row)
    if path := path_of(place.table, row):
        return _explain_path(iteration, place, path, row)
    steps = iteration.training()
    verdict = steps[-1].reason if steps else "nothing was trained in this iteration yet"
    if stage == "evaluation":
        verdict = "a held-out answer: it measures models, and none is trained on it"
    return explanation(place, verdict, steps=(*iteration.revoked({place.id}), *steps))


def path_of(table: str, row: Row) -> str | None:
    """The path that a row of one iteration is about; None where it is about none, or about several."""
    if table == RAW_GENERATIONS.name:
        return str(row["id"])
    roles = {
        FILTERED_DATASET.name: "path",
        PERPLEXITY_SCORES.name: "scored",
        DECISIONS.name: "decided",
    }
    return next((edge["id"] for edge in row["parents"] if edge["role"] == roles.get(table)), None)


def _explain_path(iteration: Iteration, place: Place, path_id: str, row: Row) -> Explanation:
    path = iteration.row(RAW_GENERATIONS, "id", path_id)
    question_id = path.get("question_id") or row.get("question_id", "")  # the paths may be newer than the row
    question = iteration.row(SEED_POOL, "id", question_id)
    vote = iteration.vote(question_id)
    decisions = iteration.decisions(path_id)
    example = next(
        (
            row
            for row in iteration.rows(FILTERED_DATASET, pl.col("question_id") == question_id)
            if {"id": path_id, "role": "path"} in row["parents"]
        ),
        {},
    )
    known = {place.id, path_id, question_id, example.get("id", ""), *(step.record or "" for step in vote)}
    known |= {edge["id"] for made in (question, path, example) for edge in made.get("parents", ())}
    gone = _revoked_sources(iteration.lake, place.experiment, known) + iteration.revoked(known)
    steps = [*iteration.source(question), *iteration.drawn(path), *vote, *iteration.score(path_id)]
    steps += decisions
    if example:
        said = f"in the dataset as {example['format']}"
        steps.append(Step(FILTERED_DATASET.name, said, example["id"], passed=True))
    training = iteration.training() if example else []
    gates = iteration.gates()
    verdict = _verdict(iteration, decisions, example, training, gates)
    if gone:
        verdict = f"{gone[0].reason}, so it is no longer handed on; otherwise: {verdict}"
    return explanation(
        place,
        verdict,
        in_dataset=bool(example) and not gone,
        steps=(*steps, *gone, *gates, *training),
    )


def _verdict(
    iteration: Iteration, decisions: list[Step], example: Row, training: list[Step], gates: list[Step]
) -> str:
    dropped = next((step for step in decisions if not step.passed), None)
    if dropped:
        return dropped_verdict(iteration.key, dropped)
    if not decisions and not example:
        return f"not in a dataset: the filters of {iteration.key} have not seen it yet"
    if not example:
        if iteration.manifest(FILTERED_DATASET) is None:
            return f"kept by every rule, but the dataset of {iteration.key} is not committed yet"
        return f"not in the dataset of {iteration.key}: kept by every rule, but no format was left for it"
    verdict = (
        f"in the dataset of {iteration.key} as {example['format']}: "
        f"it answers {example['answer']} as the vote does (share {example['vote_share']:.3g}) "
        f"and passed {count(len(decisions), 'rule')}"
    )
    return verdict + training_verdict(iteration.number, training, gates)


def _explain_question(iteration: Iteration, place: Place, row: Row) -> Explanation:
    voted = place.table == VOTED_ANSWERS.name
    question_id = row["question_id"] if voted else row["id"]
    question = iteration.row(SEED_POOL, "id", question_id) if voted else row
    fates = iteration.fates(question_id)
    examples = sum(fate.example is not None for fate in fates)
    vote = iteration.vote(question_id)
    known = {question_id, *(step.record or "" for step in vote)}
    known |= {edge["id"] for edge in question.get("parents", ())}
    gone = _revoked_sources(iteration.lake, place.experiment, known) + iteration.revoked(known)
    verdict = f"{count(len(fates), 'path')}, {count(examples, 'example')} in the dataset of {iteration.key}"
    dropped = Counter(fate.rule for fate in fates if fate.rule)
    if dropped:
        verdict += "; dropped by " + ", ".join(f"{rule}: {n}" for rule, n in dropped.most_common())
    if gone:
        verdict = f"{gone[0].reason}; {verdict}"
    steps = (*iteration.source(question), *vote, *gone, *iteration.gates())
    return explanation(place, verdict, in_dataset=examples > 0 and not gone, steps=steps, fates=tuple(fates))


def _explain_source(lake: Lake, place: Place) -> Explanation:
    """Of a seed, a rejected line or a demonstration, which no iteration holds."""
    manifest, row = next(
        (manifest, found[0])
        for manifest in lake.manifests(place.table, place.experiment)
        if (found := rows_of(manifest, pl.col("id") == place.id))
    )
    where, gone = source_of(row), revoked(lake, manifest, {place.id})
    if place.table == REJECTED_SEEDS.name:
        step = Step(place.table, row["reason"], place.id, passed=False)
        return explanation(place, f"{where} is no seed: {row['reason']}", in_dataset=False, steps=(step,))
    accepted = Step(place.table, f"accepted from {where}", place.id, passed=True)
    if place.table == DEMONSTRATIONS.name:
        verdict = f"a worked example of {where}, shown in few-shot prompts; it is not trained on itself"
        return explanation(place, verdict, steps=(accepted, *gone))

    def fates(number: int, question: str) -> list[Fate]:
        return Iteration(lake, place.experiment, number).fates(question)

    uses = tuple(uses_of(lake, place, SEED_POOL, fates))
    total = sum((Counter(use.paths) for use in uses), Counter())
    verdict = f"a seed of {where}: " + (
        f"asked in {count(len(uses), 'iteration')}, {count(total.total(), 'path')}, {total['kept']:,} kept"
        if uses
        else "no iteration has asked it yet"
    )
    if gone:
        verdict = f"{gone[0].reason}; {verdict}"
    in_dataset = total["kept"] > 0 and not gone
    return explanation(place, verdict, in_dataset=in_dataset, steps=(accepted, *gone), uses=uses)


def _explain_label(lake: Lake, place: Place, row: Row) -> Explanation:
    """Of what a person said."""
    said = {"a": "A is better", "b": "B is better", "both": "both are good", "neither": "neither is good"}
    step = Step(place.table, f"{row['by']} at {row['at']}: {said[row['label']]}", place.id)
    gone = all_revoked(lake, place.experiment, {place.id})
    verdict = (
        "what a person said: it measures who judged, and is trained on only where `review comparisons` wrote "
        f"it to a file that an experiment names; {step.reason}"
    )
    return explanation(place, verdict, steps=(step, *gone))


def _explain_measurement(lake: Lake, place: Place, row: Row) -> Explanation:
    """Of what was asked, said, scored and picked to measure how well a model judges itself."""
    step = Step(place.table, sentence(row), place.id)
    gone = all_revoked(lake, place.experiment, {place.id, row.get("question_id", "")})
    verdict = f"it measures whether a model can judge itself, and none is trained on it: {step.reason}"
    return explanation(place, verdict, in_dataset=False, steps=(step, *gone))


def _revoked_sources(lake: Lake, experiment: str, ids: set[str]) -> list[Step]:
    manifests = lake.manifests("seeds/*", experiment)
    return [step for manifest in manifests for step in revoked(lake, manifest, ids)]
