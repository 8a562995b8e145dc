"""Every table of the lake: its columns, and the tag that opens the ids of its records."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.table import (
    SOURCE,
    TEXT,
    Table,
    completions,
    decisions,
    evaluation,
    fine_tuned_checkpoint,
    promotion,
)

DEMONSTRATIONS = Table(
    "seeds/demonstrations",
    "demo",
    noun="demonstration",
    content={"question": TEXT, "reasoning": TEXT, "answer": TEXT, **SOURCE},
)
"""Worked examples for few-shot prompts."""


SEED_POOL = Table("lmsi/seed_pool", "q", noun="question", content={"question": TEXT, **SOURCE})
"""The questions of one iteration; parent: the seed."""


RAW_GENERATIONS = completions(
    "lmsi/raw_generations", "gen", noun="path", question_id=TEXT, prompt_format=TEXT
)
"""Sampled reasoning paths; parents: the question and the prompt's demonstrations."""


PERPLEXITY_SCORES = Table(
    "lmsi/perplexity_scores",
    "ppl",
    noun="perplexity score",
    content={"path_id": TEXT, "tokens": pl.Int32},
    measures={"mean_logprob": pl.Float64, "perplexity": pl.Float64},
)
"""How probable each path is to its own generator; parent: the path."""


VOTED_ANSWERS = Table(
    "lmsi/voted_answers",
    "vote",
    noun="vote",
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


FILTERED_DATASET = Table(
    "lmsi/filtered_dataset",
    "ex",
    noun="training example",
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
