"""The tables of Constitutional AI."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.column_sources import decided, drawn, each, new, of, pooled, same
from selfimprove_dagster.families.dialogues.checks import FIRST_RESPONSE_CHECKS, PROMPT_POOL_CHECKS
from selfimprove_dagster.families.dialogues.tables import PROMPT, SEED_PROMPTS, dialogue_evaluation
from selfimprove_dagster.families.dialogues.words import prompt
from selfimprove_dagster.families.scored.tables import example_perplexities, example_ratings
from selfimprove_dagster.families.trained.tables import fine_tuned_checkpoint, promotion
from selfimprove_dagster.methods.constitutional import words
from selfimprove_dagster.methods.constitutional.checks import (
    CRITIQUE_CHECKS,
    REVISION_CHECKS,
    REVISION_DATASET_CHECKS,
)
from selfimprove_dagster.table import TEXT, Draw, Table, completions, decisions

CAI_SEED_POOL = Table(
    "constitutional/seed_pool",
    "prompt",
    noun="prompt",
    sentence=prompt,
    content=PROMPT,
    sources=pooled(SEED_PROMPTS, PROMPT),
    checks=PROMPT_POOL_CHECKS,
)
"""The prompts of one iteration; parent: the seed."""


_FIRST = of(CAI_SEED_POOL, "prompt")


CAI_RAW_GENERATIONS = completions(
    "constitutional/raw_generations",
    "gen",
    noun="first response",
    content={"prompt_id": TEXT},
    sources={**drawn(of(CAI_SEED_POOL, "id"), _FIRST), "prompt_id": of(CAI_SEED_POOL, "id")},
    checks=FIRST_RESPONSE_CHECKS,
    draw=Draw("responses", prompt="response"),
)
"""First responses; parent: the prompt."""


_SAID = of(CAI_RAW_GENERATIONS, "text")


_ROUND = {"prompt_id": TEXT, "revises_id": TEXT, "round": pl.Int32, "principle": TEXT}


# A critique of a later round is of a revision, which is made of critiques: sources are those of the first round.
CAI_CRITIQUES = completions(
    "constitutional/critiques",
    "crit",
    noun="critique",
    sentence=words.critique,
    content=_ROUND,
    sources={
        **drawn([*of(CAI_SEED_POOL, "id"), *of(CAI_RAW_GENERATIONS, "id")], [*_FIRST, *_SAID]),
        **same(CAI_RAW_GENERATIONS, "prompt_id"),
        "revises_id": of(CAI_RAW_GENERATIONS, "id"),
        **new("round", "principle"),
    },
    checks=CRITIQUE_CHECKS,
    draw=Draw("revisions", prompt="critique"),
    made_with="constitutional/revisions",
)
"""Critiques, one a response and round, up to a text that says nothing.

Parents: the prompt, and the response that it is of (`revises_id`).
"""


CAI_REVISIONS = completions(
    "constitutional/revisions",
    "rev",
    noun="revision",
    sentence=words.revision,
    content={**_ROUND, "critique_id": TEXT},
    sources={
        **drawn(
            [*of(CAI_SEED_POOL, "id"), *of(CAI_RAW_GENERATIONS, "id"), *of(CAI_CRITIQUES, "id")],
            [*_FIRST, *_SAID, *of(CAI_CRITIQUES, "text")],
        ),
        **same(CAI_CRITIQUES, *_ROUND),
        "critique_id": of(CAI_CRITIQUES, "id"),
    },
    checks=REVISION_CHECKS,
    draw=Draw("revisions", prompt="revision"),
    made_with="constitutional/critiques",
)
"""Revisions, one a critique that says something.

Parents: the prompt, the response that it revises, and the critique.
"""


_CANDIDATE = [*of(CAI_SEED_POOL, "id"), *of(CAI_RAW_GENERATIONS, "id"), *of(CAI_REVISIONS, "id")]


_ANSWER = [*of(CAI_SEED_POOL, "prompt", "response"), *_SAID, *of(CAI_REVISIONS, "text")]


CAI_EXAMPLE_PERPLEXITIES = example_perplexities("constitutional", _CANDIDATE, _ANSWER)


CAI_EXAMPLE_RATINGS = example_ratings("constitutional", _CANDIDATE, _ANSWER)


CAI_DECISIONS = decisions(
    "constitutional/decisions",
    sources=decided(
        _CANDIDATE,
        [
            *of(CAI_SEED_POOL, "kind", "response"),
            *_SAID,
            *of(CAI_REVISIONS, "prompt_id", "round", "text"),
            *of(CAI_EXAMPLE_PERPLEXITIES, "perplexity"),
            *of(CAI_EXAMPLE_RATINGS, "rating"),
        ],
    ),
)
"""What each rule said of each revision and each helpful response."""


CAI_FILTERED_DATASET = Table(
    "constitutional/filtered_dataset",
    "ex",
    noun="training example",
    sentence=words.example,
    content={
        "question": TEXT,
        "format": TEXT,
        "prompt": TEXT,
        "completion": TEXT,
        "prompt_id": TEXT,
        "round": pl.Int32,
    },
    sources={
        "parents": [*of(CAI_SEED_POOL, "id"), *of(CAI_RAW_GENERATIONS, "id"), *of(CAI_REVISIONS, "id")],
        **each(_FIRST, "question", "prompt"),
        "prompt_id": of(CAI_SEED_POOL, "id"),
        "format": of(CAI_SEED_POOL, "kind"),
        "completion": [*of(CAI_SEED_POOL, "response"), *_SAID, *of(CAI_REVISIONS, "text")],
        **same(CAI_REVISIONS, "round"),
    },
    checks=REVISION_DATASET_CHECKS,
)
"""Revisions (format `revision`) and helpful responses (`helpful`); parents: the prompt, and what was written
last. `round` is that of the revision, 0 for a first response."""


CAI_CHECKPOINT = fine_tuned_checkpoint("constitutional", CAI_FILTERED_DATASET)


CAI_EVALUATION = dialogue_evaluation("constitutional", CAI_CHECKPOINT)


CAI_PROMOTION = promotion("constitutional", CAI_CHECKPOINT, CAI_EVALUATION)


TABLES = (
    CAI_SEED_POOL,
    CAI_RAW_GENERATIONS,
    CAI_CRITIQUES,
    CAI_REVISIONS,
    CAI_EXAMPLE_PERPLEXITIES,
    CAI_EXAMPLE_RATINGS,
    CAI_DECISIONS,
    CAI_FILTERED_DATASET,
    CAI_CHECKPOINT,
    CAI_EVALUATION,
    CAI_PROMOTION,
)
"""In the order of the pipeline."""
