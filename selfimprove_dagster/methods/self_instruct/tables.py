"""The tables of Self-Instruct."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.column_sources import decided, drawn, each, new, of, same
from selfimprove_dagster.families.scored.tables import example_perplexities, example_ratings
from selfimprove_dagster.families.tasks import words
from selfimprove_dagster.families.tasks.checks import PARSED_CHECKS
from selfimprove_dagster.families.tasks.tables import EXAMPLE, pool_decisions, task_pool
from selfimprove_dagster.families.trained.tables import evaluation, fine_tuned_checkpoint, promotion
from selfimprove_dagster.methods.self_instruct.checks import (
    ACCEPTED_TASKS_CHECKS,
    CLASSIFIED_CHECKS,
    DATASET_CHECKS,
    INSTRUCTION_SCORE_CHECKS,
    SIMILARITY_CHECKS,
)
from selfimprove_dagster.methods.self_instruct.prompts import generation_stops
from selfimprove_dagster.quality.completions import COMPLETION_CHECKS
from selfimprove_dagster.table import PROBLEM, TEXT, Draw, Table, completions, decisions

SI_POOL_DECISIONS = pool_decisions("self_instruct")
"""Why a task is in the pool or not: banned, or replaced by a later version of itself."""


SI_SEED_POOL = task_pool("self_instruct")
"""All tasks that an iteration may show; parent: the seed task, or an earlier iteration's accepted task."""


_POOL = of(SI_SEED_POOL, "instruction")


_SHOT = of(SI_SEED_POOL, "instruction", "instances", "is_classification")


SI_RAW_GENERATIONS = completions(
    "self_instruct/raw_generations",
    "gen",
    noun="completion",
    content={"first_number": pl.Int32},
    sources=drawn(of(SI_SEED_POOL, "id"), _POOL, "first_number"),
    checks=COMPLETION_CHECKS,
    draw=Draw("generation", "generation", stops=lambda section: generation_stops(section["tasks"])),
)
"""Sampled lists of tasks; parents: the demonstrations. The list goes on from `first_number`."""


SI_CANDIDATE_TASKS = Table(
    "self_instruct/candidate_tasks",
    "cand",
    noun="candidate task",
    sentence=words.read_task,
    content={
        "completion_id": TEXT,
        "instruction": TEXT,
        "start": pl.Int32,
        "end": pl.Int32,
        "problem": TEXT,
    },
    sources={
        **each(of(SI_RAW_GENERATIONS, "id"), "parents", "completion_id"),
        **each(of(SI_RAW_GENERATIONS, "text"), "instruction", "start", "end", "problem"),
    },
    checks=PARSED_CHECKS,
)
"""The tasks read out of each completion, from character `start` to `end`; parent: the completion. `problem`
says why one cannot be used, such as being cut off."""


_CANDIDATE = of(SI_CANDIDATE_TASKS, "id")


_SAID = of(SI_CANDIDATE_TASKS, "instruction")


SI_PERPLEXITY_SCORES = Table(
    "self_instruct/perplexity_scores",
    "ppl",
    noun="perplexity score",
    sentence=words.instruction_perplexity,
    content={"candidate_id": TEXT, "tokens": pl.Int32},
    measures={"mean_logprob": pl.Float64, "perplexity": pl.Float64, **PROBLEM},
    later=frozenset(PROBLEM),
    sources={
        **each(_CANDIDATE, "parents", "candidate_id"),
        **each(_SAID, "tokens", "mean_logprob", "perplexity", "problem"),
    },
    checks=INSTRUCTION_SCORE_CHECKS,
)
"""How probable the model finds each instruction as the first of a list, or the `problem`; parent: the candidate."""


SI_SIMILARITY_SCORES = Table(
    "self_instruct/similarity_scores",
    "sim",
    noun="similarity score",
    sentence=words.similarity,
    content={
        "candidate_id": TEXT,
        "kept": pl.Boolean,
        "pool": pl.Int64,
        "neighbours": pl.List(pl.Struct({"id": TEXT, "rouge_l": pl.Float64})),
    },
    sources={
        **each(_CANDIDATE, "parents", "candidate_id"),
        **each([*_SAID, *_POOL, *of(SI_PERPLEXITY_SCORES, "perplexity")], "kept", "neighbours", "pool"),
    },
    checks=SIMILARITY_CHECKS,
)
"""The ten nearest tasks of the pool as it then was, `pool` tasks in all; parent: the candidate."""


SI_TASK_DECISIONS = decisions(
    "self_instruct/task_decisions",
    sources=decided(
        _CANDIDATE,
        [
            *_SAID,
            *of(SI_PERPLEXITY_SCORES, "perplexity"),
            *of(SI_SIMILARITY_SCORES, "kept", "neighbours"),
        ],
    ),
)
"""What each rule said of each candidate task that reached it."""


SI_ACCEPTED_TASKS = Table(
    "self_instruct/accepted_tasks",
    "acc",
    noun="accepted task",
    sentence=words.accepted_task,
    content={"instruction": TEXT, "candidate_id": TEXT},
    measures={"rouge_l": pl.Float64, "perplexity": pl.Float64},
    sources={
        "parents": [*_CANDIDATE, *of(SI_SIMILARITY_SCORES, "id")],
        **same(SI_CANDIDATE_TASKS, "instruction"),
        "candidate_id": _CANDIDATE,
        "rouge_l": of(SI_SIMILARITY_SCORES, "neighbours"),
        **same(SI_PERPLEXITY_SCORES, "perplexity"),
    },
    checks=ACCEPTED_TASKS_CHECKS,
    read_later=True,
)
"""The tasks that join the pool; parents: the candidate and its scores."""


SI_CLASSIFIED_TASKS = Table(
    "self_instruct/classified_tasks",
    "cls",
    noun="task class",
    sentence=words.classified,
    content={"task_id": TEXT, "instruction": TEXT, "is_classification": pl.Boolean},
    measures={"yes": pl.Float64, **PROBLEM},
    later=frozenset(PROBLEM),
    sources={
        "parents": [*of(SI_ACCEPTED_TASKS, "id"), *of(SI_SEED_POOL, "id")],
        "task_id": of(SI_ACCEPTED_TASKS, "id"),
        **same(SI_ACCEPTED_TASKS, "instruction"),
        **each([*of(SI_ACCEPTED_TASKS, "instruction"), *_SHOT], "is_classification", "yes", "problem"),
    },
    checks=CLASSIFIED_CHECKS,
)
"""Whether a task has a few labels to choose from, and the probability of Yes, or the `problem` with which it counts as
none; parent: the accepted task."""


SI_INSTANCE_GENERATIONS = completions(
    "self_instruct/instance_generations",
    "igen",
    noun="instance completion",
    sentence=words.drawn_instances,
    content={"task_id": TEXT, "instruction": TEXT, "form": TEXT},
    sources={
        **drawn(
            [*of(SI_CLASSIFIED_TASKS, "task_id", "id"), *of(SI_SEED_POOL, "id")],
            [*of(SI_CLASSIFIED_TASKS, "instruction", "is_classification"), *_SHOT],
        ),
        **same(SI_CLASSIFIED_TASKS, "task_id", "instruction"),
        "form": of(SI_CLASSIFIED_TASKS, "is_classification"),
    },
    checks=COMPLETION_CHECKS,
    draw=Draw("instances", prompt="input_first"),
)
"""Examples of each task as the model wrote them, `form` is input_first or output_first; parents: the
accepted task and its class."""


SI_TASK_INSTANCES = Table(
    "self_instruct/task_instances",
    "inst",
    noun="instance",
    sentence=words.read_instance,
    said=words.instance,
    content={
        "task_id": TEXT,
        "instruction": TEXT,
        "is_classification": pl.Boolean,
        "input": TEXT,
        "output": TEXT,
        "problem": TEXT,
    },
    sources={
        "parents": of(SI_INSTANCE_GENERATIONS, "id"),
        **same(SI_INSTANCE_GENERATIONS, "task_id", "instruction"),
        "is_classification": of(SI_INSTANCE_GENERATIONS, "form"),
        **each(of(SI_INSTANCE_GENERATIONS, "text"), "input", "output", "problem"),
    },
    checks=PARSED_CHECKS,
    read_later=True,
)
"""The instances read out of each completion; parent: the completion."""


_INSTANCE = of(SI_TASK_INSTANCES, "instruction", "input", "output")


SI_EXAMPLE_PERPLEXITIES = example_perplexities("self_instruct", of(SI_TASK_INSTANCES, "id"), _INSTANCE)


SI_EXAMPLE_RATINGS = example_ratings("self_instruct", of(SI_TASK_INSTANCES, "id"), _INSTANCE)


SI_DECISIONS = decisions(
    "self_instruct/decisions",
    sources=decided(
        of(SI_TASK_INSTANCES, "id"),
        [
            *_INSTANCE,
            *of(SI_ACCEPTED_TASKS, "rouge_l"),
            *of(SI_EXAMPLE_PERPLEXITIES, "perplexity"),
            *of(SI_EXAMPLE_RATINGS, "rating"),
        ],
    ),
)
"""What each rule said of each instance that reached it."""


SI_FILTERED_DATASET = Table(
    "self_instruct/filtered_dataset",
    "ex",
    noun="training example",
    sentence=words.example,
    content=EXAMPLE,
    measures={"rouge_l": pl.Float64, "perplexity": pl.Float64},
    sources={
        "parents": [*of(SI_TASK_INSTANCES, "id"), *of(SI_ACCEPTED_TASKS, "id"), *of(SI_SEED_POOL, "id")],
        **same(SI_TASK_INSTANCES, "instruction", "input"),
        "answer": of(SI_TASK_INSTANCES, "output"),
        "question": _INSTANCE[:2],
        "prompt": _INSTANCE[:2],
        "completion": _INSTANCE[2:],
        **same(SI_ACCEPTED_TASKS, "rouge_l", "perplexity"),
        **new("format"),
    },
    checks=DATASET_CHECKS,
)
"""Training examples, those of earlier iterations too; parents: the instance and its task."""


SI_CHECKPOINT = fine_tuned_checkpoint("self_instruct", SI_FILTERED_DATASET)


SI_EVALUATION = evaluation("self_instruct", SI_CHECKPOINT, judged=True)


SI_PROMOTION = promotion("self_instruct", SI_CHECKPOINT, SI_EVALUATION)


TABLES = (
    SI_POOL_DECISIONS,
    SI_SEED_POOL,
    SI_RAW_GENERATIONS,
    SI_CANDIDATE_TASKS,
    SI_PERPLEXITY_SCORES,
    SI_SIMILARITY_SCORES,
    SI_TASK_DECISIONS,
    SI_ACCEPTED_TASKS,
    SI_CLASSIFIED_TASKS,
    SI_INSTANCE_GENERATIONS,
    SI_TASK_INSTANCES,
    SI_EXAMPLE_PERPLEXITIES,
    SI_EXAMPLE_RATINGS,
    SI_DECISIONS,
    SI_FILTERED_DATASET,
    SI_CHECKPOINT,
    SI_EVALUATION,
    SI_PROMOTION,
)
"""In the order of the pipeline."""
