"""The tables of the methods whose model writes tasks."""

from __future__ import annotations

from selfimprove_dagster.families.tasks.tables import _ELICITED, _EXAMPLE, POOL_TASKS
from selfimprove_dagster.table import (
    TEXT,
    Table,
    completions,
    decisions,
)

# ---- Unnatural Instructions -------------------------------------------------------------------------


UI_SEED_POOL = Table("unnatural_instructions/seed_pool", "task", noun="pool task", content=POOL_TASKS)
"""The seed tasks from which demonstrations are drawn; parent: the seed task."""


UI_POOL_DECISIONS = decisions("unnatural_instructions/pool_decisions")
"""Why a task is in the pool or not."""


UI_RAW_GENERATIONS = completions("unnatural_instructions/raw_generations", "gen", noun="completion")
"""Sampled fourth tasks; parents: the three demonstrations."""


UI_CANDIDATE_TASKS = Table(
    "unnatural_instructions/candidate_tasks",
    "cand",
    noun="candidate task",
    content={"completion_id": TEXT, **_ELICITED, "problem": TEXT},
)
"""The task read out of each completion; parent: the completion."""


UI_TASK_DECISIONS = decisions("unnatural_instructions/task_decisions")
"""What each rule said of each elicited task that reached it."""


UI_ACCEPTED_TASKS = Table(
    "unnatural_instructions/accepted_tasks",
    "acc",
    noun="accepted task",
    content={"candidate_id": TEXT, **_ELICITED},
)
"""The tasks that are answered; parent: the candidate."""


UI_TASK_OUTPUTS = completions(
    "unnatural_instructions/task_outputs", "out", noun="output", task_id=TEXT, **_ELICITED
)
"""The greedy answer to each task; parent: the accepted task."""


UI_PARAPHRASES = completions(
    "unnatural_instructions/paraphrases",
    "para",
    noun="paraphrase",
    task_id=TEXT,
    instruction=TEXT,
    paraphrase=TEXT,
    problem=TEXT,
)
"""The same instruction in other words, or the problem of a text that holds none; parent: the accepted
task."""


UI_DECISIONS = decisions("unnatural_instructions/decisions")
"""What each rule said of each answered task."""


UI_FILTERED_DATASET = Table(
    "unnatural_instructions/filtered_dataset", "ex", noun="training example", content=_EXAMPLE
)
"""Training examples, those of earlier iterations too; parents: the output, its task, and the paraphrase."""
