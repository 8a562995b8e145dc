"""The tables of the methods whose model writes tasks."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.records import TableSchema
from selfimprove_dagster.shared_tables import (
    SOURCE,
    TEXT,
    completions,
    decisions,
    evaluation,
    fine_tuned_checkpoint,
    promotion,
)

INSTANCE = pl.Struct({"input": TEXT, "output": TEXT})
_TASK: dict[str, Any] = {
    "name": TEXT,
    "instruction": TEXT,
    "instances": pl.List(INSTANCE),
    "constraints": TEXT,
    "is_classification": pl.Boolean,
}

SEED_TASKS = TableSchema("seeds/tasks", "stask", content={**_TASK, **SOURCE})
"""Tasks written by people, as they were imported, by file and line; `name` is the task's id in its file."""

POOL_TASKS = {"origin": TEXT, **_TASK, **SOURCE}
"""A task of a pool; `origin` is human or machine."""


# ---- Self-Instruct ----------------------------------------------------------------------------------


SI_SEED_POOL = TableSchema("self_instruct/seed_pool", "task", content=POOL_TASKS)
"""All tasks that an iteration may show; parent: the seed task, or an earlier iteration's accepted task."""

SI_POOL_DECISIONS = decisions("self_instruct/pool_decisions")
"""Why a task is in the pool or not: banned, or replaced by a later version of itself."""

SI_RAW_GENERATIONS = completions("self_instruct/raw_generations", "gen", first_number=pl.Int32)
"""Sampled lists of tasks; parents: the demonstrations. The list goes on from `first_number`."""

SI_CANDIDATE_TASKS = TableSchema(
    "self_instruct/candidate_tasks",
    "cand",
    content={
        "completion_id": TEXT,
        "instruction": TEXT,
        "start": pl.Int32,
        "end": pl.Int32,
        "problem": TEXT,
    },
)
"""The tasks read out of each completion, from character `start` to `end`; parent: the completion. `problem`
says why one cannot be used, such as being cut off."""

SI_PERPLEXITY_SCORES = TableSchema(
    "self_instruct/perplexity_scores",
    "ppl",
    content={"candidate_id": TEXT, "tokens": pl.Int32},
    measures={"mean_logprob": pl.Float64, "perplexity": pl.Float64},
)
"""How probable the model finds each instruction as the first of a list; parent: the candidate."""

SI_SIMILARITY_SCORES = TableSchema(
    "self_instruct/similarity_scores",
    "sim",
    content={
        "candidate_id": TEXT,
        "kept": pl.Boolean,
        "pool": pl.Int64,
        "neighbours": pl.List(pl.Struct({"id": TEXT, "rouge_l": pl.Float64})),
    },
)
"""The ten nearest tasks of the pool as it then was, `pool` tasks in all; parent: the candidate."""

SI_TASK_DECISIONS = decisions("self_instruct/task_decisions")
"""What each rule said of each candidate task that reached it."""

SI_ACCEPTED_TASKS = TableSchema(
    "self_instruct/accepted_tasks",
    "acc",
    content={"instruction": TEXT, "candidate_id": TEXT},
    measures={"rouge_l": pl.Float64, "perplexity": pl.Float64},
)
"""The tasks that join the pool; parents: the candidate and its scores."""

SI_CLASSIFIED_TASKS = TableSchema(
    "self_instruct/classified_tasks",
    "cls",
    content={"task_id": TEXT, "instruction": TEXT, "is_classification": pl.Boolean},
    measures={"yes": pl.Float64},
)
"""Whether a task has a few labels to choose from, and the probability of Yes; parent: the accepted task."""

SI_INSTANCE_GENERATIONS = completions(
    "self_instruct/instance_generations", "igen", task_id=TEXT, instruction=TEXT, form=TEXT
)
"""Examples of each task as the model wrote them, `form` is input_first or output_first; parents: the
accepted task and its class."""

SI_TASK_INSTANCES = TableSchema(
    "self_instruct/task_instances",
    "inst",
    content={
        "task_id": TEXT,
        "instruction": TEXT,
        "is_classification": pl.Boolean,
        "input": TEXT,
        "output": TEXT,
        "problem": TEXT,
    },
)
"""The instances read out of each completion; parent: the completion."""

SI_DECISIONS = decisions("self_instruct/decisions")
"""What each rule said of each instance that reached it."""

_EXAMPLE: dict[str, Any] = {
    "question": TEXT,
    "format": TEXT,
    "prompt": TEXT,
    "completion": TEXT,
    "instruction": TEXT,
    "input": TEXT,
    "answer": TEXT,
}

SI_FILTERED_DATASET = TableSchema(
    "self_instruct/filtered_dataset",
    "ex",
    content=_EXAMPLE,
    measures={"rouge_l": pl.Float64, "perplexity": pl.Float64},
)
"""Training examples, those of earlier iterations too; parents: the instance and its task."""


# ---- Unnatural Instructions -------------------------------------------------------------------------


UI_SEED_POOL = TableSchema("unnatural_instructions/seed_pool", "task", content=POOL_TASKS)
"""The seed tasks from which demonstrations are drawn; parent: the seed task."""

UI_POOL_DECISIONS = decisions("unnatural_instructions/pool_decisions")
"""Why a task is in the pool or not."""

UI_RAW_GENERATIONS = completions("unnatural_instructions/raw_generations", "gen")
"""Sampled fourth tasks; parents: the three demonstrations."""

_ELICITED: dict[str, Any] = {"instruction": TEXT, "input": TEXT, "constraints": TEXT}

UI_CANDIDATE_TASKS = TableSchema(
    "unnatural_instructions/candidate_tasks",
    "cand",
    content={"completion_id": TEXT, **_ELICITED, "problem": TEXT},
)
"""The task read out of each completion; parent: the completion."""

UI_TASK_DECISIONS = decisions("unnatural_instructions/task_decisions")
"""What each rule said of each elicited task that reached it."""

UI_ACCEPTED_TASKS = TableSchema(
    "unnatural_instructions/accepted_tasks", "acc", content={"candidate_id": TEXT, **_ELICITED}
)
"""The tasks that are answered; parent: the candidate."""

UI_TASK_OUTPUTS = completions("unnatural_instructions/task_outputs", "out", task_id=TEXT, **_ELICITED)
"""The greedy answer to each task; parent: the accepted task."""

UI_PARAPHRASES = completions(
    "unnatural_instructions/paraphrases",
    "para",
    task_id=TEXT,
    instruction=TEXT,
    paraphrase=TEXT,
    problem=TEXT,
)
"""The same instruction in other words, or the problem of a text that holds none; parent: the accepted
task."""

UI_DECISIONS = decisions("unnatural_instructions/decisions")
"""What each rule said of each answered task."""

UI_FILTERED_DATASET = TableSchema("unnatural_instructions/filtered_dataset", "ex", content=_EXAMPLE)
"""Training examples, those of earlier iterations too; parents: the output, its task, and the paraphrase."""


TASK_TABLES = (
    SEED_TASKS,
    SI_SEED_POOL,
    SI_POOL_DECISIONS,
    SI_RAW_GENERATIONS,
    SI_CANDIDATE_TASKS,
    SI_PERPLEXITY_SCORES,
    SI_SIMILARITY_SCORES,
    SI_TASK_DECISIONS,
    SI_ACCEPTED_TASKS,
    SI_CLASSIFIED_TASKS,
    SI_INSTANCE_GENERATIONS,
    SI_TASK_INSTANCES,
    SI_DECISIONS,
    SI_FILTERED_DATASET,
    fine_tuned_checkpoint("self_instruct"),
    evaluation("self_instruct"),
    promotion("self_instruct"),
    UI_SEED_POOL,
    UI_POOL_DECISIONS,
    UI_RAW_GENERATIONS,
    UI_CANDIDATE_TASKS,
    UI_TASK_DECISIONS,
    UI_ACCEPTED_TASKS,
    UI_TASK_OUTPUTS,
    UI_PARAPHRASES,
    UI_DECISIONS,
    UI_FILTERED_DATASET,
    fine_tuned_checkpoint("unnatural_instructions"),
    evaluation("unnatural_instructions"),
    promotion("unnatural_instructions"),
)
"""All of them, in the order in which the stages run."""
