"""The tables of the methods in which a model, or people, judge: Constitutional AI, RLAIF, RLHF."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.families.dialogues.tables import _PROMPT
from selfimprove_dagster.review.tables import _SHOWN
from selfimprove_dagster.table import (
    TEXT,
    Table,
    completions,
    decisions,
)

RLAIF_SEED_POOL = Table("rlaif/seed_pool", "prompt", noun="prompt", content=_PROMPT)
"""The prompts of one iteration; parent: the seed."""


RLAIF_RESPONSE_PAIRS = completions("rlaif/response_pairs", "gen", noun="response", prompt_id=TEXT)
"""Two responses a prompt, by `sample_index`; parent: the prompt."""


RLAIF_COMPARISONS = Table(
    "rlaif/comparisons",
    "cmp",
    noun="comparison",
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


RLAIF_AI_PREFERENCES = Table(
    "rlaif/ai_preferences",
    "pref",
    noun="preference",
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


RLAIF_JUDGE_CHECKS = Table(
    "rlaif/judge_checks",
    "judge",
    noun="judge check",
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


RLAIF_REVIEW_QUEUE = Table(
    "rlaif/review_queue",
    "item",
    noun="review item",
    content=_SHOWN,
    measures={"uncertainty": pl.Float64, "reason": TEXT},
)
"""The preferences of which the judge is least certain, for people to look at; parent: the preference."""
