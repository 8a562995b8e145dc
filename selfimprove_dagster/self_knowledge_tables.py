"""The tables of generation against discrimination."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.records import TableSchema
from selfimprove_dagster.shared_tables import SOURCE, TEXT, completions

METHOD = "self_knowledge"

SK_QUESTIONS = TableSchema(
    f"{METHOD}/questions", "ask", content={"task": TEXT, "kind": TEXT, "question": TEXT, **SOURCE}
)
"""The questions and prompts of all tasks, without what tells right from wrong, by file and line."""

SK_CANDIDATES = completions(f"{METHOD}/candidates", "cand", question_id=TEXT, task=TEXT)
"""What the model answers, several times a question, by `sample_index`; parent: the question."""

SK_GENERATION_SCORE = TableSchema(
    f"{METHOD}/generation_score",
    "gsc",
    content={
        "question_id": TEXT,
        "task": TEXT,
        "candidate_ids": pl.List(TEXT),
        "right": pl.List(pl.Boolean),
        "unread": pl.Int32,
    },
    measures={"score": pl.Float64},
)
"""Which of a question's candidates are right, and their share: the accuracy of a random one. `unread` counts
those in which no answer could be read. Parents: the question, every candidate."""

SK_DISCRIMINATION_SCORE = TableSchema(
    f"{METHOD}/discrimination_score",
    "dsc",
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
    measures={"score": pl.Float64, "probabilities": pl.List(pl.List(pl.Float64))},
)
"""One row a question and way of picking. Each of `prompts` shows the candidates in the order of `orders`
(places in `candidate_ids`), asked by the principle beside it; `texts` are what the model wrote, `choices` the
candidate that it chose each time, null where none could be read, `probabilities` those of the options as
shown. `picked_id` is picked over all of them, and `right` whether it is; both are null where nothing could be
read, and `score` is the generation score then. Parents: the question, its generation score, every candidate.
"""

SK_DISCRIMINATION_GAP = TableSchema(
    f"{METHOD}/discrimination_gap",
    "dgap",
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
)
"""One row a task and way of picking: both scores, their difference with its 95% interval, and the share of
choices that could not be read. The generation score is what picking by lot scores, `best` what a judge that
is always right would. Parents: both tables of scores, as sets, and the model."""

SELF_KNOWLEDGE_TABLES = (
    SK_QUESTIONS,
    SK_CANDIDATES,
    SK_GENERATION_SCORE,
    SK_DISCRIMINATION_SCORE,
    SK_DISCRIMINATION_GAP,
)
"""All of them, in the order in which the stages run."""
