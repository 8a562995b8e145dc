"""The tables of generation against discrimination."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.column_sources import drawn, each, new, of, same
from selfimprove_dagster.methods.self_knowledge import words
from selfimprove_dagster.methods.self_knowledge.checks import (
    CANDIDATE_CHECKS,
    DISCRIMINATION_GAP_CHECKS,
    DISCRIMINATION_SCORE_CHECKS,
    GENERATION_SCORE_CHECKS,
    SK_QUESTION_CHECKS,
)
from selfimprove_dagster.table import PROBLEM, SOURCE, TEXT, Draw, Table, completions

METHOD = "self_knowledge"


SK_QUESTIONS = Table(
    f"{METHOD}/questions",
    "ask",
    noun="question",
    sentence=words.question,
    content={"task": TEXT, "kind": TEXT, "question": TEXT, **SOURCE},
    sources=new("parents", "task", "kind", "question", *SOURCE),
    checks=SK_QUESTION_CHECKS,
)
"""The questions and prompts of all tasks, without what tells right from wrong, by file and line."""


_ASKED = of(SK_QUESTIONS, "question")


SK_CANDIDATES = completions(
    f"{METHOD}/candidates",
    "cand",
    noun="candidate",
    sentence=words.candidate,
    content={"question_id": TEXT, "task": TEXT},
    sources={
        **drawn(of(SK_QUESTIONS, "id"), [*_ASKED, *of(SK_QUESTIONS, "kind")]),
        "question_id": of(SK_QUESTIONS, "id"),
        **same(SK_QUESTIONS, "task"),
    },
    checks=CANDIDATE_CHECKS,
    draw=Draw("candidates", stops=lambda section: section["stop"]),
)
"""What the model answers, several times a question, by `sample_index`; parent: the question."""


_SAID = of(SK_CANDIDATES, "text")


SK_GENERATION_SCORE = Table(
    f"{METHOD}/generation_score",
    "gsc",
    noun="generation score",
    sentence=words.scored,
    content={
        "question_id": TEXT,
        "task": TEXT,
        "candidate_ids": pl.List(TEXT),
        "right": pl.List(pl.Boolean),
        "unread": pl.Int32,
    },
    measures={"score": pl.Float64},
    sources={
        "parents": [*of(SK_QUESTIONS, "id"), *of(SK_CANDIDATES, "id")],
        "question_id": of(SK_QUESTIONS, "id"),
        **same(SK_QUESTIONS, "task"),
        "candidate_ids": of(SK_CANDIDATES, "id"),
        **each([*_SAID, *of(SK_QUESTIONS, "source_line")], "right", "unread", "score"),
    },
    checks=GENERATION_SCORE_CHECKS,
)
"""Which of a question's candidates are right, and their share: the accuracy of a random one. `unread` counts
those in which no answer could be read. Parents: the question, every candidate."""


_RIGHT = of(SK_GENERATION_SCORE, "right")


SK_DISCRIMINATION_SCORE = Table(
    f"{METHOD}/discrimination_score",
    "dsc",
    noun="pick",
    sentence=words.picked,
    said=words.picked,
    content={
        "question_id": TEXT,
        "task": TEXT,
        "by": TEXT,
        "candidate_ids": pl.List(TEXT),
        "principles": pl.List(TEXT),
        "orders": pl.List(pl.List(pl.Int32)),
        "prompts": pl.List(TEXT),
        "texts": pl.List(TEXT),
        "choices": pl.List(pl.Int32),
        "picked_id": TEXT,
        "right": pl.Boolean,
    },
    measures={"score": pl.Float64, "probabilities": pl.List(pl.List(pl.Float64)), **PROBLEM},
    later=frozenset(PROBLEM),
    sources={
        "parents": [*of(SK_QUESTIONS, "id"), *of(SK_CANDIDATES, "id"), *of(SK_GENERATION_SCORE, "id")],
        **same(SK_GENERATION_SCORE, "question_id", "task", "candidate_ids"),
        **each(_ASKED, "principles", "orders"),
        **each([*_ASKED, *_SAID], "prompts", "texts", "choices", "probabilities", "problem"),
        "picked_id": [*of(SK_CANDIDATES, "id"), *_ASKED, *_SAID],
        **each([*_RIGHT, *_ASKED, *_SAID], "right", "score"),
        **new("by"),
    },
    checks=DISCRIMINATION_SCORE_CHECKS,
)
"""One row a question and way of picking. Each of `prompts` shows the candidates in the order of `orders` (places in
`candidate_ids`), asked by the principle beside it; `texts` are what the model wrote, `choices` the candidate that it
chose each time, null where none could be read, `probabilities` those of the options as shown. `picked_id` is picked
over all of them, and `right` whether it is; both are null where nothing could be read, and `score` is the generation
score then. `problem` says why the model could not be asked in an order. Parents: the question, its generation score,
every candidate.
"""


_SCORES = [*of(SK_GENERATION_SCORE, "score"), *of(SK_DISCRIMINATION_SCORE, "right")]


SK_DISCRIMINATION_GAP = Table(
    f"{METHOD}/discrimination_gap",
    "dgap",
    noun="discrimination gap",
    sentence=words.gap,
    content={"task": TEXT, "kind": TEXT, "by": TEXT, "model_id": TEXT},
    measures={
        "questions": pl.Int64,
        "candidates": pl.Int64,
        "generation": pl.Float64,
        "discrimination": pl.Float64,
        "best": pl.Float64,
        "gap": pl.Float64,
        "gap_low": pl.Float64,
        "gap_high": pl.Float64,
        "unread_share": pl.Float64,
        "statement": TEXT,
    },
    sources={
        "parents": [
            *of(SK_GENERATION_SCORE, "activity_id"),
            *of(SK_DISCRIMINATION_SCORE, "activity_id"),
        ],
        **same(SK_GENERATION_SCORE, "task"),
        **same(SK_DISCRIMINATION_SCORE, "by"),
        **each(_SCORES, "questions", "generation", "discrimination"),
        "best": _RIGHT,
        **each(_SCORES, "gap", "gap_low", "gap_high", "statement"),
        "unread_share": of(SK_DISCRIMINATION_SCORE, "choices"),
        **new("kind", "model_id", "candidates"),
    },
    checks=DISCRIMINATION_GAP_CHECKS,
)
"""One row per task and way of picking: both scores, their difference with its 95% interval, and the share of
choices that could not be read. The generation score is what picking at random scores, `best` what a judge
that is always right would score. Parents: both tables of scores, as sets, and the model."""


TABLES = (
    SK_QUESTIONS,
    SK_CANDIDATES,
    SK_GENERATION_SCORE,
    SK_DISCRIMINATION_SCORE,
    SK_DISCRIMINATION_GAP,
)
"""In the order of the pipeline."""
