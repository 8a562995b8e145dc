"""The tables of LMSI."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.column_sources import each, new, of, pooled, same
from selfimprove_dagster.families.scored.tables import example_ratings
from selfimprove_dagster.families.trained.tables import evaluation, fine_tuned_checkpoint, promotion
from selfimprove_dagster.methods.lmsi import words
from selfimprove_dagster.methods.lmsi.checks import (
    EVALUATION_CHECKS,
    FILTERED_DATASET_CHECKS,
    PERPLEXITY_SCORES_CHECKS,
    RAW_GENERATIONS_CHECKS,
    SEED_POOL_CHECKS,
    VOTED_ANSWERS_CHECKS,
)
from selfimprove_dagster.methods.lmsi.reviewing import voted_items
from selfimprove_dagster.shared_tables import SEEDS
from selfimprove_dagster.table import SOURCE, TEXT, Draw, Reviewed, Table, completions, decisions

DEMONSTRATIONS = Table(
    "seeds/demonstrations",
    "demo",
    noun="demonstration",
    sentence=words.question,
    content={"question": TEXT, "reasoning": TEXT, "answer": TEXT, **SOURCE},
    sources=new("parents", "question", "reasoning", "answer", *SOURCE),
)
"""Worked examples for few-shot prompts."""


_SHOWN = of(DEMONSTRATIONS, "question", "reasoning", "answer")


SEED_POOL = Table(
    "lmsi/seed_pool",
    "q",
    noun="question",
    sentence=words.question,
    content={"question": TEXT, **SOURCE},
    sources=pooled(SEEDS, SEEDS.content),
    checks=SEED_POOL_CHECKS,
)
"""The questions of one iteration; parent: the seed."""


RAW_GENERATIONS = completions(
    "lmsi/raw_generations",
    "gen",
    noun="path",
    sentence=words.path,
    content={"question_id": TEXT, "prompt_format": TEXT},
    sources={
        "parents": [*of(SEED_POOL, "id"), *of(DEMONSTRATIONS, "id")],
        "question_id": of(SEED_POOL, "id"),
        **each(
            [*of(SEED_POOL, "question"), *_SHOWN],
            *("prompt", "prompt_token_ids", "token_ids", "text", "finish_reason", "logprobs"),
        ),
        "seed": of(SEED_POOL, "question"),
        **new("prompt_format"),
    },
    checks=RAW_GENERATIONS_CHECKS,
    draw=Draw("sampling", lambda section: section["prompt_format"], stops=lambda section: section["stop"]),
)
"""Sampled reasoning paths; parents: the question and the prompt's demonstrations."""


_PATH = of(RAW_GENERATIONS, "text")


PERPLEXITY_SCORES = Table(
    "lmsi/perplexity_scores",
    "ppl",
    noun="perplexity score",
    sentence=words.perplexity,
    content={"path_id": TEXT, "tokens": pl.Int32},
    measures={"mean_logprob": pl.Float64, "perplexity": pl.Float64},
    sources={
        **each(of(RAW_GENERATIONS, "id"), "parents", "path_id"),
        **each(of(RAW_GENERATIONS, "logprobs"), "tokens", "mean_logprob", "perplexity"),
    },
    checks=PERPLEXITY_SCORES_CHECKS,
)
"""How probable each path is to its own generator; parent: the path."""


VOTED_ANSWERS = Table(
    "lmsi/voted_answers",
    "vote",
    noun="vote",
    sentence=words.vote,
    said=words.voted,
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
    measures={
        "vote_share": pl.Float64,
        "margin": pl.Float64,
        "readable_share": pl.Float64,
        "read_by": pl.List(TEXT),
        "weights": pl.List(pl.Float64),
    },
    later=frozenset(("readable_share", "read_by", "weights")),
    sources={
        "parents": of(RAW_GENERATIONS, "question_id", "id"),
        **same(RAW_GENERATIONS, "question_id"),
        **same(SEED_POOL, "question"),
        "paths": [*of(RAW_GENERATIONS, "id"), *_PATH],
        "n_paths": of(RAW_GENERATIONS, "id"),
        **each(_PATH, "voted_answer", "votes", "tie", "n_valid", "n_distinct_paths", "vote_share", "margin"),
        **each(_PATH, "readable_share", "read_by"),
        "weights": [*of(RAW_GENERATIONS, "logprobs", "text"), *of(SEED_POOL, "question")],
        **new("rule"),
    },
    checks=VOTED_ANSWERS_CHECKS,
    reviewed=Reviewed(voted_items, prompt=of("lmsi/voted_answers", "question"), options=_PATH),
)
"""One row a question; parents: the question and every path that was asked for its vote.

`vote_share` and `margin` are of all m paths; rows of version 2 and before have them of the readable paths. `read_by`
has for each of `paths` the rule that read its answer, `weights` what its vote counts, null if all count the same.
"""


EXAMPLE_RATINGS = example_ratings(
    "lmsi",
    of(RAW_GENERATIONS, "id"),
    [*of(SEED_POOL, "question"), *_PATH, *of(VOTED_ANSWERS, "voted_answer")],
)


DECISIONS = decisions(
    "lmsi/decisions",
    sources={
        **each(of(RAW_GENERATIONS, "id"), "parents", "candidate_id"),
        "nearest_id": [*of(RAW_GENERATIONS, "id"), *_PATH],
        **each(
            [
                *_PATH,
                *of(VOTED_ANSWERS, "voted_answer", "paths", "vote_share", "n_valid"),
                *of(PERPLEXITY_SCORES, "perplexity"),
                *of(EXAMPLE_RATINGS, "rating"),
            ],
            *("kept", "reason", "score"),
        ),
        **new("stage", "rule", "threshold"),
    },
)
"""What each filter rule said of each path that reached it."""


FILTERED_DATASET = Table(
    "lmsi/filtered_dataset",
    "ex",
    noun="training example",
    sentence=words.example,
    content={
        "question_id": TEXT,
        "question": TEXT,
        "format": TEXT,
        "prompt": TEXT,
        "completion": TEXT,
        "answer": TEXT,
    },
    measures={"vote_share": pl.Float64, "perplexity": pl.Float64},
    sources={
        "parents": [*of(VOTED_ANSWERS, "id"), *of(RAW_GENERATIONS, "id"), *of(DEMONSTRATIONS, "id")],
        **same(VOTED_ANSWERS, "question_id", "question", "vote_share"),
        "prompt": [*of(VOTED_ANSWERS, "question"), *_SHOWN],
        "completion": [*_PATH, *of(VOTED_ANSWERS, "voted_answer")],
        "answer": of(VOTED_ANSWERS, "voted_answer"),
        **same(PERPLEXITY_SCORES, "perplexity"),
        **new("format"),
    },
    checks=FILTERED_DATASET_CHECKS,
)
"""Training examples; parents: the vote, the path it was made from, the prompt's demonstrations."""


FINE_TUNED_CHECKPOINT = fine_tuned_checkpoint("lmsi", FILTERED_DATASET)


EVALUATION = evaluation("lmsi", FINE_TUNED_CHECKPOINT, _SHOWN, checks=EVALUATION_CHECKS)


PROMOTION = promotion("lmsi", FINE_TUNED_CHECKPOINT, EVALUATION)


TABLES = (
    SEED_POOL,
    RAW_GENERATIONS,
    PERPLEXITY_SCORES,
    VOTED_ANSWERS,
    EXAMPLE_RATINGS,
    DECISIONS,
    FILTERED_DATASET,
    FINE_TUNED_CHECKPOINT,
    EVALUATION,
    PROMOTION,
)
"""In the order of the pipeline."""
