"""Every table of the lake: its columns, and the tag that opens the ids of its records."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.errors import PartitionMissing
from selfimprove_dagster.judge_tables import (
    CAI_CRITIQUES,
    CAI_REVISIONS,
    JUDGE_TABLES,
    SEED_COMPARISONS,
    SEED_PROMPTS,
)
from selfimprove_dagster.pit_tables import PIT_TABLES
from selfimprove_dagster.records import TableSchema
from selfimprove_dagster.refinement_tables import REFINEMENT_TABLES
from selfimprove_dagster.review_tables import REVIEW_LABELS
from selfimprove_dagster.self_knowledge_tables import SELF_KNOWLEDGE_TABLES
from selfimprove_dagster.shared_tables import (
    SOURCE,
    TEXT,
    completions,
    decisions,
    evaluation,
    fine_tuned_checkpoint,
    promotion,
)
from selfimprove_dagster.task_tables import SEED_TASKS, TASK_TABLES
from selfimprove_dagster.tool_tables import SEED_TEXTS, TOOL_TABLES

SEEDS = TableSchema("seeds/accepted", "seed", content={"question": TEXT, **SOURCE})
"""Unlabelled questions as they were imported, by file and line."""

REJECTED_SEEDS = TableSchema("seeds/rejected", "rej", content={"reason": TEXT, "excerpt": TEXT, **SOURCE})
"""Lines that are no seeds, each with the reason."""

DEMONSTRATIONS = TableSchema(
    "seeds/demonstrations",
    "demo",
    content={"question": TEXT, "reasoning": TEXT, "answer": TEXT, **SOURCE},
)
"""Worked examples for few-shot prompts."""

SEED_POOL = TableSchema("lmsi/seed_pool", "q", content={"question": TEXT, **SOURCE})
"""The questions of one iteration; parent: the seed."""

RAW_GENERATIONS = completions("lmsi/raw_generations", "gen", question_id=TEXT, prompt_format=TEXT)
"""Sampled reasoning paths; parents: the question and the prompt's demonstrations."""

PERPLEXITY_SCORES = TableSchema(
    "lmsi/perplexity_scores",
    "ppl",
    content={"path_id": TEXT, "tokens": pl.Int32},
    measures={"mean_logprob": pl.Float64, "perplexity": pl.Float64},
)
"""How probable each path is to its own generator; parent: the path."""

VOTED_ANSWERS = TableSchema(
    "lmsi/voted_answers",
    "vote",
    content={
        "question_id": TEXT,
        "question": TEXT,
        "rule": TEXT,
        "voted_answer": TEXT,
        "votes": pl.List(pl.Struct({"answer": TEXT, "count": pl.UInt32})),
        "paths": pl.List(pl.Struct({"id": TEXT, "answer": TEXT})),
        "tie": pl.Boolean,
        "n_paths": pl.UInt32,
        "n_valid": pl.UInt32,
        "n_distinct_paths": pl.UInt32,
    },
    measures={"vote_share": pl.Float64, "margin": pl.Float64},
)
"""One row a question; parents: the question and every path that was asked for its vote."""

DECISIONS = decisions("lmsi/decisions")
"""What each filter rule said of each path that reached it."""

FILTERED_DATASET = TableSchema(
    "lmsi/filtered_dataset",
    "ex",
    content={
        "question_id": TEXT,
        "question": TEXT,
        "format": TEXT,
        "prompt": TEXT,
        "completion": TEXT,
        "answer": TEXT,
    },
    measures={"vote_share": pl.Float64, "perplexity": pl.Float64},
)
"""Training examples; parents: the vote, the path it was made from, the prompt's demonstrations."""

FINE_TUNED_CHECKPOINT = fine_tuned_checkpoint("lmsi")
EVALUATION = evaluation("lmsi")
PROMOTION = promotion("lmsi")

TABLES = {
    schema.name: schema
    for schema in (
        SEEDS,
        REJECTED_SEEDS,
        DEMONSTRATIONS,
        SEED_POOL,
        RAW_GENERATIONS,
        PERPLEXITY_SCORES,
        VOTED_ANSWERS,
        DECISIONS,
        FILTERED_DATASET,
        FINE_TUNED_CHECKPOINT,
        EVALUATION,
        PROMOTION,
        *TASK_TABLES,
        *TOOL_TABLES,
        *JUDGE_TABLES,
        *REFINEMENT_TABLES,
        *SELF_KNOWLEDGE_TABLES,
        *PIT_TABLES,
        REVIEW_LABELS,
    )
}

MADE_TOGETHER = {CAI_CRITIQUES.name: CAI_REVISIONS.name, CAI_REVISIONS.name: CAI_CRITIQUES.name}
"""Tables whose rows have parents in each other, so that no activity of one can be an input of the other's."""

MODELS = (
    *("fine_tuned_checkpoint", "supervised_checkpoint", "reward_model"),
    *("improver_checkpoint", "gap_reward_model", "curriculum_checkpoint"),
)
"""The stages whose rows are models that were trained."""


def holds_models(table: str) -> bool:
    """Whether the rows of a table are models that were trained."""
    return table.split("/")[1] in MODELS


SEEDS_OF = {
    "lmsi": SEEDS,
    "self_instruct": SEED_TASKS,
    "unnatural_instructions": SEED_TASKS,
    "toolformer": SEED_TEXTS,
    "constitutional": SEED_PROMPTS,
    "rlaif": SEED_PROMPTS,
    "rlhf": SEED_COMPARISONS,
    "refinement": SEED_PROMPTS,
    "pit": SEED_COMPARISONS,
}
"""The table of what people gave to the experiments of a method; one without seeds has none."""


def of(method: str, stage: str) -> TableSchema:
    """The table of a stage. Raises PartitionMissing for a method that has no such stage."""
    if f"{method}/{stage}" not in TABLES:
        raise PartitionMissing(f"the method {method} has no stage {stage}: there is nothing to look for")
    return TABLES[f"{method}/{stage}"]
