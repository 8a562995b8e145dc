"""The tables of the method `curate`."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.column_sources import decided, drawn, each, new, of, pooled, same
from selfimprove_dagster.families.tasks.tables import EXAMPLE
from selfimprove_dagster.families.trained.tables import evaluation, fine_tuned_checkpoint, promotion
from selfimprove_dagster.methods.curate import words
from selfimprove_dagster.methods.curate.checks import (
    CANDIDATES_CHECKS,
    DATASET_CHECKS,
    PERPLEXITY_CHECKS,
    POOL_CHECKS,
    RATINGS_CHECKS,
    VOTES_CHECKS,
)
from selfimprove_dagster.quality.completions import COMPLETION_CHECKS
from selfimprove_dagster.table import PROBLEM, SOURCE, TEXT, Draw, Table, completions, decisions
from selfimprove_dagster.words import rating

_LINE: dict[str, Any] = {"instruction": TEXT, "input": TEXT, "output": TEXT, **SOURCE}


SEED_EXAMPLES = Table(
    "seeds/examples",
    "given",
    noun="given line",
    sentence=words.line,
    content=_LINE,
    sources=new("parents", *_LINE),
)
"""The lines of the user's file as they were imported; `output` is null for a prompt."""


SEED_POOL = Table(
    "curate/seed_pool",
    "line",
    noun="line",
    sentence=words.line,
    content=_LINE,
    sources=pooled(SEED_EXAMPLES, _LINE),
    checks=POOL_CHECKS,
)
"""The prompts and finished examples of one iteration; parent: the imported line."""


_ASKED = of(SEED_POOL, "instruction", "input")


RAW_GENERATIONS = completions(
    "curate/raw_generations",
    "gen",
    noun="generated answer",
    content={"question_id": TEXT},
    sources={
        **drawn(of(SEED_POOL, "id"), _ASKED),
        "question_id": of(SEED_POOL, "id"),
    },
    checks=COMPLETION_CHECKS,
    draw=Draw("generation", "template_0"),
)
"""Answers that the model generated; parent: the first line with the question. Empty if none is asked for."""


CANDIDATE_ANSWERS = Table(
    "curate/candidate_answers",
    "answer",
    noun="candidate answer",
    sentence=words.candidate,
    said=words.answer,
    content={
        "question_id": TEXT,
        "instruction": TEXT,
        "input": TEXT,
        "output": TEXT,
        "given": pl.Boolean,
        "problem": TEXT,
    },
    sources={
        "parents": [*of(SEED_POOL, "id"), *of(RAW_GENERATIONS, "id")],
        "question_id": of(SEED_POOL, "id"),
        **same(SEED_POOL, "instruction", "input"),
        "output": [*of(SEED_POOL, "output"), *of(RAW_GENERATIONS, "text")],
        "problem": of(RAW_GENERATIONS, "finish_reason"),
        **new("given"),
    },
    checks=CANDIDATES_CHECKS,
)
"""Every answer that filters judge, `given` in the file or generated; parent: the line, or the completion. `problem`
says why one cannot be used. `question_id` is the first line of the pool with the question."""


_CANDIDATE = of(CANDIDATE_ANSWERS, "id")


_SAID = of(CANDIDATE_ANSWERS, "instruction", "input", "output")


PERPLEXITY_SCORES = Table(
    "curate/perplexity_scores",
    "ppl",
    noun="perplexity score",
    sentence=words.perplexity,
    content={"candidate_id": TEXT, "tokens": pl.Int32},
    measures={"mean_logprob": pl.Float64, "perplexity": pl.Float64, **PROBLEM},
    later=frozenset(PROBLEM),
    sources={
        **each(_CANDIDATE, "parents", "candidate_id"),
        **each(_SAID, "tokens", "mean_logprob", "perplexity", "problem"),
    },
    checks=PERPLEXITY_CHECKS,
)
"""How probable the model finds each answer after its question. Empty if no filter asks for it."""


RATINGS = Table(
    "curate/ratings",
    "rating",
    noun="rating",
    sentence=rating,
    content={"candidate_id": TEXT, "asked": TEXT},
    measures={"rating": pl.Float64, **PROBLEM},
    later=frozenset(PROBLEM),
    sources={
        **each(_CANDIDATE, "parents", "candidate_id"),
        **each(_SAID, "rating", "problem"),
        **new("asked"),
    },
    checks=RATINGS_CHECKS,
)
"""The expected rating of each answer from 1 to 10, by the judge that was `asked`. Empty if no filter asks for it."""


VOTED_ANSWERS = Table(
    "curate/voted_answers",
    "vote",
    noun="vote",
    sentence=words.vote,
    said=words.voted,
    content={
        "question_id": TEXT,
        "voted_answer": TEXT,
        "votes": pl.List(pl.Struct({"answer": TEXT, "count": pl.UInt32})),
        "paths": pl.List(pl.Struct({"id": TEXT, "answer": TEXT})),
        "tie": pl.Boolean,
        "n_paths": pl.UInt32,
        "n_valid": pl.UInt32,
    },
    measures={"vote_share": pl.Float64, "readable_share": pl.Float64, "weights": pl.List(pl.Float64)},
    later=frozenset(("readable_share", "weights")),
    sources={
        "parents": [*of(CANDIDATE_ANSWERS, "question_id"), *_CANDIDATE],
        **same(CANDIDATE_ANSWERS, "question_id"),
        **each(
            [*_CANDIDATE, *of(CANDIDATE_ANSWERS, "output")],
            *("paths", "voted_answer", "votes", "tie", "n_paths", "n_valid", "vote_share", "readable_share"),
        ),
        "weights": [*_SAID, *of(PERPLEXITY_SCORES, "mean_logprob")],
    },
    checks=VOTES_CHECKS,
)
"""One row per question; parents: the question and every answer to it. Empty if no filter asks for it.

`vote_share` is of all answers; rows of version 1 have it of the readable ones. `weights` has for each of `paths` what
its vote counts, null if all count the same.
"""


DECISIONS = decisions(
    "curate/decisions",
    sources=decided(
        _CANDIDATE,
        [
            *_SAID,
            *of(PERPLEXITY_SCORES, "perplexity"),
            *of(RATINGS, "rating"),
            *of(VOTED_ANSWERS, "voted_answer", "vote_share"),
        ],
    ),
)
"""The decision of each filter on each answer that reached it."""


FILTERED_DATASET = Table(
    "curate/filtered_dataset",
    "ex",
    noun="training example",
    sentence=words.example,
    content=EXAMPLE,
    measures={"perplexity": pl.Float64, "rating": pl.Float64, "vote_share": pl.Float64},
    sources={
        "parents": _CANDIDATE,
        **same(CANDIDATE_ANSWERS, "instruction", "input"),
        "answer": of(CANDIDATE_ANSWERS, "output"),
        **each(_SAID[:2], "question", "prompt"),
        "completion": _SAID[2:],
        **same(PERPLEXITY_SCORES, "perplexity"),
        **same(RATINGS, "rating"),
        **same(VOTED_ANSWERS, "vote_share"),
        **new("format"),
    },
    checks=DATASET_CHECKS,
)
"""Training examples; parent: the answer. Measures that no filter asked for are null."""


FINE_TUNED_CHECKPOINT = fine_tuned_checkpoint("curate", FILTERED_DATASET)


EVALUATION = evaluation("curate", FINE_TUNED_CHECKPOINT, judged=True)


PROMOTION = promotion("curate", FINE_TUNED_CHECKPOINT, EVALUATION)


TABLES = (
    SEED_POOL,
    RAW_GENERATIONS,
    CANDIDATE_ANSWERS,
    PERPLEXITY_SCORES,
    RATINGS,
    VOTED_ANSWERS,
    DECISIONS,
    FILTERED_DATASET,
    FINE_TUNED_CHECKPOINT,
    EVALUATION,
    PROMOTION,
)
"""In the order of the pipeline."""
