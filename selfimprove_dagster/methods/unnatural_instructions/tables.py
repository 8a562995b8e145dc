"""The tables of Unnatural Instructions."""

from __future__ import annotations

from selfimprove_dagster.column_sources import decided, drawn, each, new, of, same
from selfimprove_dagster.families.scored.tables import example_perplexities, example_ratings
from selfimprove_dagster.families.tasks import words
from selfimprove_dagster.families.tasks.checks import ACCEPTED_CHECKS, PARSED_CHECKS, TASK_DATASET_CHECKS
from selfimprove_dagster.families.tasks.tables import ELICITED, EXAMPLE, pool_decisions, task_pool
from selfimprove_dagster.families.trained.tables import evaluation, fine_tuned_checkpoint, promotion
from selfimprove_dagster.quality.completions import COMPLETION_CHECKS
from selfimprove_dagster.table import TEXT, Draw, Table, completions, decisions

UI_POOL_DECISIONS = pool_decisions("unnatural_instructions")
"""Why a task is in the pool or not."""


UI_SEED_POOL = task_pool("unnatural_instructions")
"""The seed tasks from which demonstrations are drawn; parent: the seed task."""


UI_RAW_GENERATIONS = completions(
    "unnatural_instructions/raw_generations",
    "gen",
    noun="completion",
    sources=drawn(of(UI_SEED_POOL, "id"), of(UI_SEED_POOL, "instruction", "instances", "constraints")),
    checks=COMPLETION_CHECKS,
    draw=Draw("generation", prompt="example"),
)
"""Sampled fourth tasks; parents: the three demonstrations."""


UI_CANDIDATE_TASKS = Table(
    "unnatural_instructions/candidate_tasks",
    "cand",
    noun="candidate task",
    sentence=words.read_task,
    content={"completion_id": TEXT, **ELICITED, "problem": TEXT},
    sources={
        **each(of(UI_RAW_GENERATIONS, "id"), "parents", "completion_id"),
        **each(of(UI_RAW_GENERATIONS, "text"), *ELICITED, "problem"),
    },
    checks=PARSED_CHECKS,
)
"""The task read out of each completion; parent: the completion."""


UI_TASK_DECISIONS = decisions(
    "unnatural_instructions/task_decisions",
    sources=decided(
        of(UI_CANDIDATE_TASKS, "id"),
        [*of(UI_CANDIDATE_TASKS, *ELICITED), *of(UI_SEED_POOL, "instruction", "instances")],
    ),
)
"""What each rule said of each elicited task that reached it."""


UI_ACCEPTED_TASKS = Table(
    "unnatural_instructions/accepted_tasks",
    "acc",
    noun="accepted task",
    sentence=words.accepted_task,
    content={"candidate_id": TEXT, **ELICITED},
    sources={
        **each(of(UI_CANDIDATE_TASKS, "id"), "parents", "candidate_id"),
        **same(UI_CANDIDATE_TASKS, *ELICITED),
    },
    checks=ACCEPTED_CHECKS,
    read_later=True,
)
"""The tasks that are answered; parent: the candidate."""


UI_TASK_OUTPUTS = completions(
    "unnatural_instructions/task_outputs",
    "out",
    noun="output",
    content={"task_id": TEXT, **ELICITED},
    sources={
        **drawn(of(UI_ACCEPTED_TASKS, "id"), of(UI_ACCEPTED_TASKS, *ELICITED)),
        "task_id": of(UI_ACCEPTED_TASKS, "id"),
        **same(UI_ACCEPTED_TASKS, *ELICITED),
    },
    checks=COMPLETION_CHECKS,
    draw=Draw("outputs", prompt="output"),
    read_later=True,
)
"""The greedy answer to each task; parent: the accepted task."""


UI_PARAPHRASES = completions(
    "unnatural_instructions/paraphrases",
    "para",
    noun="paraphrase",
    sentence=words.paraphrase,
    content={"task_id": TEXT, "instruction": TEXT, "paraphrase": TEXT, "problem": TEXT},
    sources={
        **drawn(of(UI_ACCEPTED_TASKS, "id"), of(UI_ACCEPTED_TASKS, "instruction")),
        "task_id": of(UI_ACCEPTED_TASKS, "id"),
        **same(UI_ACCEPTED_TASKS, "instruction"),
        **each(of(UI_ACCEPTED_TASKS, "instruction"), "paraphrase", "problem"),
    },
    checks=(*COMPLETION_CHECKS, *PARSED_CHECKS),
    draw=Draw("paraphrases", prompt="paraphrase"),
    read_later=True,
)
"""The same instruction in other words, or the problem of a text that holds none; parent: the accepted
task."""


_ANSWERED = [*of(UI_TASK_OUTPUTS, "instruction", "input"), *of(UI_PARAPHRASES, "paraphrase")]


_EXAMPLE = [*of(UI_TASK_OUTPUTS, "id"), *of(UI_PARAPHRASES, "id")]


_ANSWER = [*of(UI_TASK_OUTPUTS, "instruction", "input", "text"), *of(UI_PARAPHRASES, "paraphrase")]


UI_EXAMPLE_PERPLEXITIES = example_perplexities("unnatural_instructions", _EXAMPLE, _ANSWER)


UI_EXAMPLE_RATINGS = example_ratings("unnatural_instructions", _EXAMPLE, _ANSWER)


UI_DECISIONS = decisions(
    "unnatural_instructions/decisions",
    sources=decided(
        _EXAMPLE,
        [*_ANSWER, *of(UI_EXAMPLE_PERPLEXITIES, "perplexity"), *of(UI_EXAMPLE_RATINGS, "rating")],
    ),
)
"""What each rule said of each answered task."""


UI_FILTERED_DATASET = Table(
    "unnatural_instructions/filtered_dataset",
    "ex",
    noun="training example",
    sentence=words.example,
    content=EXAMPLE,
    sources={
        "parents": [*of(UI_TASK_OUTPUTS, "id"), *of(UI_ACCEPTED_TASKS, "id"), *of(UI_PARAPHRASES, "id")],
        "instruction": [*of(UI_TASK_OUTPUTS, "instruction"), *of(UI_PARAPHRASES, "paraphrase")],
        **same(UI_TASK_OUTPUTS, "input"),
        **each(of(UI_TASK_OUTPUTS, "text"), "answer", "completion"),
        **each(_ANSWERED, "question", "prompt"),
        **new("format"),
    },
    checks=TASK_DATASET_CHECKS,
)
"""Training examples, those of earlier iterations too; parents: the output, its task, and the paraphrase."""


UI_CHECKPOINT = fine_tuned_checkpoint("unnatural_instructions", UI_FILTERED_DATASET)


UI_EVALUATION = evaluation("unnatural_instructions", UI_CHECKPOINT, judged=True)


UI_PROMOTION = promotion("unnatural_instructions", UI_CHECKPOINT, UI_EVALUATION)


TABLES = (
    UI_POOL_DECISIONS,
    UI_SEED_POOL,
    UI_RAW_GENERATIONS,
    UI_CANDIDATE_TASKS,
    UI_TASK_DECISIONS,
    UI_ACCEPTED_TASKS,
    UI_TASK_OUTPUTS,
    UI_PARAPHRASES,
    UI_EXAMPLE_PERPLEXITIES,
    UI_EXAMPLE_RATINGS,
    UI_DECISIONS,
    UI_FILTERED_DATASET,
    UI_CHECKPOINT,
    UI_EVALUATION,
    UI_PROMOTION,
)
"""In the order of the pipeline."""
