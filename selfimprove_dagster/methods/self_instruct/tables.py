"""The tables of the methods whose model writes tasks."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.families.tasks.tables import _EXAMPLE, POOL_TASKS
from selfimprove_dagster.table import (
    TEXT,
    Table,
    completions,
    decisions,
)

# ---- Self-Instruct ----------------------------------------------------------------------------------


SI_SEED_POOL = Table("self_instruct/seed_pool", "task", noun="pool task", content=POOL_TASKS)
"""All tasks that an iteration may show; parent: the seed task, or an earlier iteration's accepted task."""


SI_POOL_DECISIONS = decisions("self_instruct/pool_decisions")
"""Why a task is in the pool or not: banned, or replaced by a later version of itself."""


SI_RAW_GENERATIONS = completions(
    "self_instruct/raw_generations", "gen", noun="completion", first_number=pl.Int32
)
"""Sampled lists of tasks; parents: the demonstrations. The list goes on from `first_number`."""


SI_CANDIDATE_TASKS = Table(
    "self_instruct/candidate_tasks",
    "cand",
    noun="candidate task",
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


SI_PERPLEXITY_SCORES = Table(
    "self_instruct/perplexity_scores",
    "ppl",
    noun="perplexity score",
    content={"candidate_id": TEXT, "tokens": pl.Int32},
    measures={"mean_logprob": pl.Float64, "perplexity": pl.Float64},
)
"""How probable the model finds each instruction as the first of a list; parent: the candidate."""


SI_SIMILARITY_SCORES = Table(
    "self_instruct/similarity_scores",
    "sim",
    noun="similarity score",
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


SI_ACCEPTED_TASKS = Table(
    "self_instruct/accepted_tasks",
    "acc",
    noun="accepted task",
    content={"instruction": TEXT, "candidate_id": TEXT},
    measures={"rouge_l": pl.Float64, "perplexity": pl.Float64},
)
"""The tasks that join the pool; parents: the candidate and its scores."""


SI_CLASSIFIED_TASKS = Table(
    "self_instruct/classified_tasks",
    "cls",
    noun="task class",
    content={"task_id": TEXT, "instruction": TEXT, "is_classification": pl.Boolean},
    measures={"yes": pl.Float64},
)
"""Whether a task has a few labels to choose from, and the probability of Yes; parent: the accepted task."""


SI_INSTANCE_GENERATIONS = completions(
    "self_instruct/instance_generations",
    "igen",
    noun="instance completion",
    task_id=TEXT,
    instruction=TEXT,
    form=TEXT,
)
"""Examples of each task as the model wrote them, `form` is input_first or output_first; parents: the
accepted task and its class."""


SI_TASK_INSTANCES = Table(
    "self_instruct/task_instances",
    "inst",
    noun="instance",
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


SI_FILTERED_DATASET = Table(
    "self_instruct/filtered_dataset",
    "ex",
    noun="training example",
    content=_EXAMPLE,
    measures={"rouge_l": pl.Float64, "perplexity": pl.Float64},
)
"""Training examples, those of earlier iterations too; parents: the instance and its task."""
