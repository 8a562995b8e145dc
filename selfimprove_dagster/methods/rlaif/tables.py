"""The tables of RLAIF."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.column_sources import decided, drawn, each, new, of, pooled, same
from selfimprove_dagster.families.dialogues.checks import PROMPT_POOL_CHECKS
from selfimprove_dagster.families.dialogues.tables import PROMPT, SEED_PROMPTS
from selfimprove_dagster.families.dialogues.words import prompt
from selfimprove_dagster.families.preferences.checks import JUDGED_DATASET_CHECKS
from selfimprove_dagster.families.preferences.tables import (
    policy,
    preference_dataset,
    reviewed_rollouts,
    reward_model,
    rewarded_evaluation,
    rollouts,
)
from selfimprove_dagster.families.trained.tables import promotion
from selfimprove_dagster.methods.rlaif import words
from selfimprove_dagster.methods.rlaif.checks import (
    COMPARISON_CHECKS,
    JUDGE_CHECKS,
    PREFERENCE_CHECKS,
    RESPONSE_PAIR_CHECKS,
)
from selfimprove_dagster.methods.rlaif.reviewing import preferred_items
from selfimprove_dagster.shared_tables import SHOWN
from selfimprove_dagster.table import PROBLEM, TEXT, Draw, Reviewed, Table, completions, decisions

RLAIF_SEED_POOL = Table(
    "rlaif/seed_pool",
    "prompt",
    noun="prompt",
    sentence=prompt,
    content=PROMPT,
    sources=pooled(SEED_PROMPTS, PROMPT),
    checks=PROMPT_POOL_CHECKS,
)
"""The prompts of one iteration; parent: the seed."""


RLAIF_RESPONSE_PAIRS = completions(
    "rlaif/response_pairs",
    "gen",
    noun="response",
    sentence=words.response,
    content={"prompt_id": TEXT},
    sources={
        **drawn(of(RLAIF_SEED_POOL, "id"), of(RLAIF_SEED_POOL, "prompt")),
        "prompt_id": of(RLAIF_SEED_POOL, "id"),
    },
    checks=RESPONSE_PAIR_CHECKS,
    draw=Draw("responses", prompt="response"),
)
"""Two responses a prompt, by `sample_index`; parent: the prompt."""


RLAIF_COMPARISONS = Table(
    "rlaif/comparisons",
    "cmp",
    noun="comparison",
    sentence=words.comparison,
    said=words.comparison,
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
    measures={"probability_a": pl.Float64, **PROBLEM},
    later=frozenset(PROBLEM),
    sources={
        **each(of(RLAIF_RESPONSE_PAIRS, "id"), "parents", "response_ids"),
        **same(RLAIF_RESPONSE_PAIRS, "prompt_id"),
        **each(
            [*of(RLAIF_SEED_POOL, "prompt"), *of(RLAIF_RESPONSE_PAIRS, "text")],
            *("question", "reasoning_prompt", "reasoning", "probability_a", "problem"),
        ),
        "seed": of(RLAIF_RESPONSE_PAIRS, "id"),
        **new("principle", "order", "repeat"),
    },
    checks=COMPARISON_CHECKS,
)
"""One row a pair, principle and order: order 0 shows the first response as (A), 1 the second. `question` is
the whole prompt whose next token is read, `probability_a` that of (A) against (B), not clamped; null with a `problem`
where the judge could not be asked. A `repeat` is asked at another seed, to see whether the judge agrees with itself; no
label rests on it. Parents: both responses."""


_JUDGED = of(RLAIF_COMPARISONS, "probability_a", "order")


RLAIF_AI_PREFERENCES = Table(
    "rlaif/ai_preferences",
    "pref",
    noun="preference",
    sentence=words.preference,
    said=words.preference,
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
        **PROBLEM,
    },
    later=frozenset(PROBLEM),
    sources={
        "parents": [*of(RLAIF_RESPONSE_PAIRS, "id"), *of(RLAIF_COMPARISONS, "id")],
        **same(RLAIF_COMPARISONS, "prompt_id", "response_ids"),
        **same(RLAIF_SEED_POOL, "prompt"),
        **each(of(RLAIF_RESPONSE_PAIRS, "text"), "first", "second"),
        "principles": of(RLAIF_COMPARISONS, "principle"),
        **each(_JUDGED, "probability", "as_first", "as_second"),
        "problem": of(RLAIF_COMPARISONS, "problem"),
    },
    checks=PREFERENCE_CHECKS,
    reviewed=Reviewed(
        preferred_items,
        prompt=[("rlaif/ai_preferences", "prompt")],
        options=of("rlaif/ai_preferences", "first", "second"),
    ),
)
"""One row a pair: the probability that its first response is the better, clamped after reasoning, and averaged
over orders and principles;
`as_first` and `as_second` when it was shown as (A) and as (B); null with a `problem` where one comparison could not be
made. Parents: both responses, every comparison."""


RLAIF_JUDGE_CHECKS = Table(
    "rlaif/judge_checks",
    "judge",
    noun="judge check",
    sentence=words.check,
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
    sources={
        "parents": of(RLAIF_AI_PREFERENCES, "activity_id"),
        **each(
            [*of(RLAIF_AI_PREFERENCES, "probability", "first", "second"), *_JUDGED],
            *("value", "low", "high", "pairs", "passed", "statement"),
        ),
        **new("measure", "allowed", "least", "most"),
    },
    checks=JUDGE_CHECKS,
)
"""What tells whether the judge can be trusted, a row a measure, with its 95% interval and its bounds; parent:
the preferences, as a set."""


RLAIF_REVIEW_QUEUE = Table(
    "rlaif/review_queue",
    "item",
    noun="review item",
    sentence=words.review_item,
    content=SHOWN,
    measures={"uncertainty": pl.Float64, "reason": TEXT},
    sources={
        **each(of(RLAIF_AI_PREFERENCES, "id"), "parents", "item_id", "swapped"),
        "prompt": of(RLAIF_AI_PREFERENCES, "prompt"),
        **each(of(RLAIF_AI_PREFERENCES, "first", "second"), "option_a", "option_b"),
        **each(of(RLAIF_AI_PREFERENCES, "probability", "as_first", "as_second"), "uncertainty", "reason"),
        **new("table"),
    },
)
"""The preferences of which the judge is least certain, for people to look at; parent: the preference."""


RLAIF_DECISIONS = decisions(
    "rlaif/decisions",
    sources=decided(of(RLAIF_AI_PREFERENCES, "id"), of(RLAIF_AI_PREFERENCES, "probability")),
)
"""What each rule said of each preference."""


RLAIF_FILTERED_DATASET = preference_dataset(
    "rlaif",
    sources={
        "parents": [*of(RLAIF_AI_PREFERENCES, "id"), *of(RLAIF_RESPONSE_PAIRS, "id")],
        **same(RLAIF_AI_PREFERENCES, "prompt_id", "prompt", "probability"),
        "question": of(RLAIF_AI_PREFERENCES, "prompt"),
        **each(of(RLAIF_AI_PREFERENCES, "first", "second", "probability"), "chosen", "rejected"),
        **new("format", "labelled_by"),
    },
    checks=JUDGED_DATASET_CHECKS,
)


RLAIF_REWARD_MODEL = reward_model("rlaif", RLAIF_FILTERED_DATASET)


RLAIF_ROLLOUTS = rollouts(
    "rlaif",
    of(RLAIF_SEED_POOL, "id", "prompt"),
    of(RLAIF_REWARD_MODEL, "model_id"),
    reviewed=reviewed_rollouts("rlaif"),
)


RLAIF_CHECKPOINT = policy("rlaif", RLAIF_FILTERED_DATASET, RLAIF_REWARD_MODEL)


RLAIF_EVALUATION = rewarded_evaluation("rlaif", RLAIF_CHECKPOINT, RLAIF_REWARD_MODEL)


RLAIF_PROMOTION = promotion("rlaif", RLAIF_CHECKPOINT, RLAIF_EVALUATION)


TABLES = (
    RLAIF_SEED_POOL,
    RLAIF_RESPONSE_PAIRS,
    RLAIF_COMPARISONS,
    RLAIF_AI_PREFERENCES,
    RLAIF_REVIEW_QUEUE,
    RLAIF_JUDGE_CHECKS,
    RLAIF_DECISIONS,
    RLAIF_FILTERED_DATASET,
    RLAIF_REWARD_MODEL,
    RLAIF_ROLLOUTS,
    RLAIF_CHECKPOINT,
    RLAIF_EVALUATION,
    RLAIF_PROMOTION,
)
"""In the order of the pipeline."""
