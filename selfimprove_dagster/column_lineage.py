"""Which column comes from which: for every column of every table, the columns that it was made from.

Declared once, for catalogs and people: Dagster's column lineage and OpenLineage's facet are made of it. Rows
say more, each with its own parents; this says what holds for all rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping

from selfimprove_dagster import tables
from selfimprove_dagster.column_sources import Source, each, new, of, same, training_stages
from selfimprove_dagster.judge_columns import JUDGE_COLUMN_SOURCES
from selfimprove_dagster.pit_columns import PIT_COLUMN_SOURCES
from selfimprove_dagster.refinement_columns import REFINEMENT_COLUMN_SOURCES
from selfimprove_dagster.review_columns import REVIEW_COLUMN_SOURCES
from selfimprove_dagster.self_knowledge_columns import SELF_KNOWLEDGE_COLUMN_SOURCES
from selfimprove_dagster.task_columns import TASK_COLUMN_SOURCES
from selfimprove_dagster.tool_columns import TOOL_COLUMN_SOURCES

HASHES = ("id", "content_hash", "activity_id", "sample_index")
"""Columns of every table that name a row, and say nothing that came from elsewhere."""


_SHOWN = of(tables.DEMONSTRATIONS, "question", "reasoning", "answer")
_PROMPT = [*of(tables.SEED_POOL, "question"), *_SHOWN]
_PATH = of(tables.RAW_GENERATIONS, "text")
_VOTE = of(tables.VOTED_ANSWERS, "voted_answer")

COLUMN_SOURCES: Mapping[str, Mapping[str, list[Source]]] = {
    tables.SEEDS.name: new("parents", *tables.SEEDS.content),
    tables.REJECTED_SEEDS.name: new("parents", *tables.REJECTED_SEEDS.content),
    tables.DEMONSTRATIONS.name: new("parents", *tables.DEMONSTRATIONS.content),
    tables.SEED_POOL.name: {
        "parents": of(tables.SEEDS, "id"),
        **same(tables.SEEDS, *tables.SEED_POOL.content),
    },
    tables.RAW_GENERATIONS.name: {
        "parents": [*of(tables.SEED_POOL, "id"), *of(tables.DEMONSTRATIONS, "id")],
        "question_id": of(tables.SEED_POOL, "id"),
        **each(_PROMPT, "prompt", "prompt_token_ids", "token_ids", "text", "finish_reason", "logprobs"),
        "seed": of(tables.SEED_POOL, "question"),
        **new("prompt_format"),
    },
    tables.PERPLEXITY_SCORES.name: {
        **each(of(tables.RAW_GENERATIONS, "id"), "parents", "path_id"),
        **each(of(tables.RAW_GENERATIONS, "logprobs"), "tokens", "mean_logprob", "perplexity"),
    },
    tables.VOTED_ANSWERS.name: {
        "parents": of(tables.RAW_GENERATIONS, "question_id", "id"),
        **same(tables.RAW_GENERATIONS, "question_id"),
        **same(tables.SEED_POOL, "question"),
        "paths": [*of(tables.RAW_GENERATIONS, "id"), *_PATH],
        "n_paths": of(tables.RAW_GENERATIONS, "id"),
        **each(_PATH, "voted_answer", "votes", "tie", "n_valid", "n_distinct_paths", "vote_share", "margin"),
        **new("rule"),
    },
    tables.DECISIONS.name: {
        **each(of(tables.RAW_GENERATIONS, "id"), "parents", "candidate_id"),
        "nearest_id": [*of(tables.RAW_GENERATIONS, "id"), *_PATH],
        **each(
            [
                *_PATH,
                *of(tables.VOTED_ANSWERS, "voted_answer", "paths", "vote_share", "n_valid"),
                *of(tables.PERPLEXITY_SCORES, "perplexity"),
            ],
            *("kept", "reason", "score"),
        ),
        **new("stage", "rule", "threshold"),
    },
    tables.FILTERED_DATASET.name: {
        "parents": [
            *of(tables.VOTED_ANSWERS, "id"),
            *of(tables.RAW_GENERATIONS, "id"),
            *of(tables.DEMONSTRATIONS, "id"),
        ],
        **same(tables.VOTED_ANSWERS, "question_id", "question", "vote_share"),
        "prompt": [*of(tables.VOTED_ANSWERS, "question"), *_SHOWN],
        "completion": [*_PATH, *_VOTE],
        "answer": _VOTE,
        **same(tables.PERPLEXITY_SCORES, "perplexity"),
        **new("format"),
    },
    **training_stages("lmsi", tables.FILTERED_DATASET, shown=_SHOWN),
    **TASK_COLUMN_SOURCES,
    **TOOL_COLUMN_SOURCES,
    **JUDGE_COLUMN_SOURCES,
    **SELF_KNOWLEDGE_COLUMN_SOURCES,
    **PIT_COLUMN_SOURCES,
    **REVIEW_COLUMN_SOURCES,
    **REFINEMENT_COLUMN_SOURCES,
}
