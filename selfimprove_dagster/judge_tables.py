"""The tables of the methods in which a model, or people, judge: Constitutional AI, RLAIF, RLHF."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.records import TableSchema
from selfimprove_dagster.review_tables import RLAIF_REVIEW_QUEUE
from selfimprove_dagster.shared_tables import (
    SOURCE,
    TEXT,
    completions,
    decisions,
    evaluation,
    fine_tuned_checkpoint,
    promotion,
)

JUDGE_METHODS = ("constitutional", "rlaif", "rlhf", "pit")
PREFERENCE_METHODS = ("rlaif", "rlhf", "pit")
"""Those that train on pairs of responses."""

_PROMPT: dict[str, Any] = {"prompt": TEXT, "kind": TEXT, "response": TEXT, **SOURCE}
COMPARED: dict[str, Any] = {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT, **SOURCE}

SEED_PROMPTS = TableSchema("seeds/prompts", "sprompt", content=_PROMPT)
"""Prompts as they were imported, by file and line; `kind` and a person's `response` where the file has it."""

SEED_COMPARISONS = TableSchema("seeds/comparisons", "scomp", content=COMPARED)
"""Comparisons that people made, by file and line."""

CAI_SEED_POOL = TableSchema("constitutional/seed_pool", "prompt", content=_PROMPT)
"""The prompts of one iteration; parent: the seed."""

CAI_RAW_GENERATIONS = completions("constitutional/raw_generations", "gen", prompt_id=TEXT)
"""First responses; parent: the prompt."""


def _round_of(name: str, tag: str, **columns: Any) -> TableSchema:
    return completions(
        f"constitutional/{name}",
        tag,
        prompt_id=TEXT,
        revises_id=TEXT,
        round=pl.Int32,
        principle=TEXT,
        **columns,
    )


CAI_CRITIQUES = _round_of("critiques", "crit")
"""Critiques, one a response and round; parents: the prompt, and the response that it is of (`revises_id`)."""

CAI_REVISIONS = _round_of("revisions", "rev", critique_id=TEXT)
"""Revisions, one a critique; parents: the prompt, the response that it revises, and the critique."""

CAI_DECISIONS = decisions("constitutional/decisions")
"""What each rule said of each revision and each helpful response."""

CAI_FILTERED_DATASET = TableSchema(
    "constitutional/filtered_dataset",
    "ex",
    content={
        "question": TEXT,
        "format": TEXT,
        "prompt": TEXT,
        "completion": TEXT,
        "prompt_id": TEXT,
        "round": pl.Int32,
    },
)
"""Revisions (format `revision`) and helpful responses (`helpful`); parents: the prompt, and what was written
last. `round` is that of the revision, 0 for a first response."""

RLAIF_SEED_POOL = TableSchema("rlaif/seed_pool", "prompt", content=_PROMPT)
"""The prompts of one iteration; parent: the seed."""

RLAIF_RESPONSE_PAIRS = completions("rlaif/response_pairs", "gen", prompt_id=TEXT)
"""Two responses a prompt, by `sample_index`; parent: the prompt."""

RLAIF_COMPARISONS = TableSchema(
    "rlaif/comparisons",
    "cmp",
    content={
        "prompt_id": TEXT,
        "response_ids": pl.List(TEXT),
        "principle": TEXT,
        "order": pl.Int32,
        "repeat": pl.Boolean,
        "question": TEXT,
        "reasoning_prompt": TEXT,
        "reasoning": TEXT,
        "seed": pl.Int64,
    },
    measures={"probability_a": pl.Float64},
)
"""One row a pair, principle and order: order 0 shows the first response as (A), 1 the second. `question` is
the whole prompt whose next token is read, `probability_a` that of (A) against (B). A `repeat` is asked at
another seed, to see whether the judge agrees with itself; no label rests on it. Parents: both responses."""

RLAIF_AI_PREFERENCES = TableSchema(
    "rlaif/ai_preferences",
    "pref",
    content={
        "prompt_id": TEXT,
        "prompt": TEXT,
        "response_ids": pl.List(TEXT),
        "first": TEXT,
        "second": TEXT,
        "principles": pl.List(TEXT),
    },
    measures={
        "probability": pl.Float64,
        "as_first": pl.Float64,
        "as_second": pl.Float64,
    },
)
"""One row a pair: the probability that its first response is the better, averaged over orders and principles;
`as_first` and `as_second` when it was shown as (A) and as (B). Parents: both responses, every comparison."""

RLAIF_JUDGE_CHECKS = TableSchema(
    "rlaif/judge_checks",
    "judge",
    content={"measure": TEXT, "allowed": TEXT},
    measures={
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "least": pl.Float64,
        "most": pl.Float64,
        "pairs": pl.Int64,
        "passed": pl.Boolean,
        "statement": TEXT,
    },
)
"""What tells whether the judge can be trusted, a row a measure, with its 95% interval and its bounds; parent:
the preferences, as a set."""

RLAIF_DECISIONS = decisions("rlaif/decisions")
"""What each rule said of each preference."""


def preference_dataset(method: str) -> TableSchema:
    """Pairs of responses with the probability that the chosen one is the better; parents: the prompt or the
    comparison of a person, and the preference and both responses where a model judged."""
    return TableSchema(
        f"{method}/filtered_dataset",
        "ex",
        content={
            "question": TEXT,
            "format": TEXT,
            "prompt": TEXT,
            "chosen": TEXT,
            "rejected": TEXT,
            "prompt_id": TEXT,
            "labelled_by": TEXT,
        },
        measures={"probability": pl.Float64},
    )


def reward_model(method: str) -> TableSchema:
    """One row: the reward model; none where training needs none. Parents: its dataset, its base model."""
    plain = fine_tuned_checkpoint(method)
    return TableSchema(
        f"{method}/reward_model",
        "rm",
        content=plain.content,
        measures={**plain.measures, "held_out_pairs": pl.Int64, "held_out_accuracy": pl.Float64},
    )


def rollouts(method: str, stage: str = "rollouts") -> TableSchema:
    """What the policy wrote while it was trained, with what it was rewarded; parents: the prompt, the models
    that wrote and that rewarded it, and the reference that it improves, if any."""
    return TableSchema(
        f"{method}/{stage}",
        "roll",
        content={
            "prompt_id": TEXT,
            "step": pl.Int32,
            "prompt": TEXT,
            "prompt_token_ids": pl.List(pl.Int32),
            "token_ids": pl.List(pl.Int32),
            "text": TEXT,
        },
        measures={"reward": pl.Float64, "advantage": pl.Float64},
    )


RLHF_SEED_POOL = TableSchema("rlhf/seed_pool", "comp", content=COMPARED)
"""The comparisons of one iteration; parent: the seed."""

RLHF_DECISIONS = decisions("rlhf/decisions")
"""What each rule said of each comparison."""

RLHF_SUPERVISED_CHECKPOINT = TableSchema(
    "rlhf/supervised_checkpoint",
    "sft",
    content=fine_tuned_checkpoint("rlhf").content,
    measures=fine_tuned_checkpoint("rlhf").measures,
)
"""One row: the model fine-tuned on what people chose; none where there is no such step."""


def dialogue_evaluation(method: str) -> TableSchema:
    """One row a held-out prompt, model and mode (greedy; revision_1, …; improved_1, …), with what the
    truth says of the response, and what the reward model does."""
    return evaluation(
        method,
        content={"helpful": pl.Boolean, "harmless": pl.Boolean},
        measures={"reward": pl.Float64},
    )


JUDGE_TABLES = (
    SEED_PROMPTS,
    SEED_COMPARISONS,
    CAI_SEED_POOL,
    CAI_RAW_GENERATIONS,
    CAI_CRITIQUES,
    CAI_REVISIONS,
    CAI_DECISIONS,
    CAI_FILTERED_DATASET,
    fine_tuned_checkpoint("constitutional"),
    dialogue_evaluation("constitutional"),
    promotion("constitutional"),
    RLAIF_SEED_POOL,
    RLAIF_RESPONSE_PAIRS,
    RLAIF_COMPARISONS,
    RLAIF_AI_PREFERENCES,
    RLAIF_REVIEW_QUEUE,
    RLAIF_JUDGE_CHECKS,
    RLAIF_DECISIONS,
    preference_dataset("rlaif"),
    reward_model("rlaif"),
    rollouts("rlaif"),
    fine_tuned_checkpoint("rlaif"),
    dialogue_evaluation("rlaif"),
    promotion("rlaif"),
    RLHF_SEED_POOL,
    RLHF_DECISIONS,
    preference_dataset("rlhf"),
    RLHF_SUPERVISED_CHECKPOINT,
    reward_model("rlhf"),
    rollouts("rlhf"),
    fine_tuned_checkpoint("rlhf"),
    dialogue_evaluation("rlhf"),
    promotion("rlhf"),
)
"""All of them, in the order in which the stages run."""
