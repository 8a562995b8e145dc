"""Which column comes from which: for every column of every table, the columns that it was made from.

Declared once, for catalogs and people: Dagster's column lineage and OpenLineage's facet are made of it. Rows
say more, each with its own parents; this says what holds for all rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping

from selfimprove_dagster.column_sources import Source, each, new, of, same, training_stages
from selfimprove_dagster.judge_columns import JUDGE_COLUMN_SOURCES
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    DEMONSTRATIONS,
    FILTERED_DATASET,
    PERPLEXITY_SCORES,
    RAW_GENERATIONS,
    SEED_POOL,
    VOTED_ANSWERS,
)
from selfimprove_dagster.methods.pit.tables import PIT_COLUMN_SOURCES
from selfimprove_dagster.methods.refinement.tables import REFINEMENT_COLUMN_SOURCES
from selfimprove_dagster.methods.self_knowledge.tables import SELF_KNOWLEDGE_COLUMN_SOURCES
from selfimprove_dagster.methods.toolformer.tables import TOOL_COLUMN_SOURCES
from selfimprove_dagster.review_columns import REVIEW_COLUMN_SOURCES
from selfimprove_dagster.seeds.tables import REJECTED_SEEDS, SEEDS
from selfimprove_dagster.task_columns import TASK_COLUMN_SOURCES

_SHOWN = of(DEMONSTRATIONS, "question", "reasoning", "answer")
_PROMPT = [*of(SEED_POOL, "question"), *_SHOWN]
_PATH = of(RAW_GENERATIONS, "text")
_VOTE = of(VOTED_ANSWERS, "voted_answer")

COLUMN_SOURCES: Mapping[str, Mapping[str, list[Source]]] = {
    SEEDS.name: new("parents", *SEEDS.content),
    REJECTED_SEEDS.name: new("parents", *REJECTED_SEEDS.content),
    DEMONSTRATIONS.name: new("parents", *DEMONSTRATIONS.content),
    SEED_POOL.name: {
        "parents": of(SEEDS, "id"),
        **same(SEEDS, *SEED_POOL.content),
    },
    RAW_GENERATIONS.name: {
        "parents": [*of(SEED_POOL, "id"), *of(DEMONSTRATIONS, "id")],
        "question_id": of(SEED_POOL, "id"),
        **each(_PROMPT, "prompt", "prompt_token_ids", "token_ids", "text", "finish_reason", "logprobs"),
        "seed": of(SEED_POOL, "question"),
        **new("prompt_format"),
    },
    PERPLEXITY_SCORES.name: {
        **each(of(RAW_GENERATIONS, "id"), "parents", "path_id"),
        **each(of(RAW_GENERATIONS, "logprobs"), "tokens", "mean_logprob", "perplexity"),
    },
    VOTED_ANSWERS.name: {
        "parents": of(RAW_GENERATIONS, "question_id", "id"),
        **same(RAW_GENERATIONS, "question_id"),
        **same(SEED_POOL, "question"),
        "paths": [*of(RAW_GENERATIONS, "id"), *_PATH],
        "n_paths": of(RAW_GENERATIONS, "id"),
        **each(_PATH, "voted_answer", "votes", "tie", "n_valid", "n_distinct_paths", "vote_share", "margin"),
        **new("rule"),
    },
    DECISIONS.name: {
        **each(of(RAW_GENERATIONS, "id"), "parents", "candidate_id"),
        "nearest_id": [*of(RAW_GENERATIONS, "id"), *_PATH],
        **each(
            [
                *_PATH,
                *of(VOTED_ANSWERS, "voted_answer", "paths", "vote_share", "n_valid"),
                *of(PERPLEXITY_SCORES, "perplexity"),
            ],
            *("kept", "reason", "score"),
        ),
        **new("stage", "rule", "threshold"),
    },
    FILTERED_DATASET.name: {
        "parents": [
            *of(VOTED_ANSWERS, "id"),
            *of(RAW_GENERATIONS, "id"),
            *of(DEMONSTRATIONS, "id"),
        ],
        **same(VOTED_ANSWERS, "question_id", "question", "vote_share"),
        "prompt": [*of(VOTED_ANSWERS, "question"), *_SHOWN],
        "completion": [*_PATH, *_VOTE],
        "answer": _VOTE,
        **same(PERPLEXITY_SCORES, "perplexity"),
        **new("format"),
    },
    **training_stages("lmsi", FILTERED_DATASET, shown=_SHOWN),
    **TASK_COLUMN_SOURCES,
    **TOOL_COLUMN_SOURCES,
    **JUDGE_COLUMN_SOURCES,
    **SELF_KNOWLEDGE_COLUMN_SOURCES,
    **PIT_COLUMN_SOURCES,
    **REVIEW_COLUMN_SOURCES,
    **REFINEMENT_COLUMN_SOURCES,
}
