"""The tables of Toolformer."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.column_sources import Source, decided, drawn, each, new, of, same, training_stages
from selfimprove_dagster.methods.toolformer import tables as t
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

_TEXT: dict[str, Any] = {"text": TEXT, "date": TEXT, "source": TEXT, **SOURCE}


SEED_TEXTS = Table("seeds/texts", "stext", noun="seed text", content=_TEXT)
"""Plain texts as they were imported, by file and line; `date` is ISO 8601, `source` the file's word."""


TF_SEED_POOL = Table("toolformer/seed_pool", "text", noun="text", content=_TEXT)
"""The texts of one iteration; parent: the seed."""


TF_SEARCH_INDEX = Table(
    "toolformer/search_index",
    "index",
    noun="search index",
    content={"tool": TEXT, "corpus": TEXT, "tool_version": TEXT},
    measures={"passages": pl.Int64},
)
"""One row where the experiment searches: the corpus, and the index that was built of it."""


TF_CALL_POSITIONS = Table(
    "toolformer/call_positions",
    "pos",
    noun="call positions",
    content={
        "text_id": TEXT,
        "tool": TEXT,
        "positions": pl.List(pl.Int32),
        "chosen": pl.List(pl.Int32),
    },
    measures={"probabilities": pl.List(pl.Float32)},
)
"""One row a text and tool: at which characters a token begins, the probability that a call opens there, and
where calls are sampled; parent: the text."""


TF_RAW_GENERATIONS = completions(
    "toolformer/raw_generations", "gen", noun="sampled call", text_id=TEXT, tool=TEXT, position=pl.Int32
)
"""Sampled calls, from the opening bracket to the end of the input; parents: the text and its positions."""


TF_TOOL_RESULTS = Table(
    "toolformer/tool_results",
    "call",
    noun="call",
    content={
        "generation_id": TEXT,
        "text_id": TEXT,
        "tool": TEXT,
        "tool_version": TEXT,
        "position": pl.Int32,
        "arguments": TEXT,
        "result": TEXT,
        "problem": TEXT,
    },
)
"""The call read out of each completion and what its tool said, or the problem; parent: the completion."""


TF_PERPLEXITY_SCORES = Table(
    "toolformer/perplexity_scores",
    "loss",
    noun="loss comparison",
    content={"candidate_id": TEXT},
    measures={
        "loss_no_call": pl.Float64,
        "loss_call": pl.Float64,
        "loss_call_with_result": pl.Float64,
    },
)
"""The weighted losses of what follows a call, in nats: without it, with it, with its result too; null where
a call could not pass any more. Parent: the call."""


TF_DECISIONS = decisions("toolformer/decisions")
"""What each rule said of each call that reached it."""


CALL = pl.Struct(
    {
        "id": TEXT,
        "tool": TEXT,
        "position": pl.Int32,
        "arguments": TEXT,
        "result": TEXT,
    }
)


TF_FILTERED_DATASET = Table(
    "toolformer/filtered_dataset",
    "ex",
    noun="training example",
    content={
        "question": TEXT,
        "format": TEXT,
        "prompt": TEXT,
        "completion": TEXT,
        "text_id": TEXT,
        "calls": pl.List(CALL),
    },
    measures={"loss_reduction": pl.Float64, "loss_reductions": pl.List(pl.Float64)},
)
"""Texts with their calls written in; parents: the text and every call. `question` is the text without calls,
`loss_reductions` what each call saves in nats, in their order, `loss_reduction` the most of them."""


MADE_CALL = pl.Struct(
    {"position": pl.Int32, "written": TEXT, "tool": TEXT, "arguments": TEXT, "result": TEXT, "problem": TEXT}
)


TF_EVALUATION = evaluation(
    "toolformer", content={"calls": pl.List(MADE_CALL)}, measures={"nats": pl.Float64, "tokens": pl.Int32}
)
"""One row a held-out beginning, model and mode (with_tools, greedy), and one a plain text (`plain`) with its
negative log-probability."""


TOOL_TABLES = (
    SEED_TEXTS,
    TF_SEED_POOL,
    TF_SEARCH_INDEX,
    TF_CALL_POSITIONS,
    TF_RAW_GENERATIONS,
    TF_TOOL_RESULTS,
    TF_PERPLEXITY_SCORES,
    TF_DECISIONS,
    TF_FILTERED_DATASET,
    fine_tuned_checkpoint("toolformer"),
    TF_EVALUATION,
    promotion("toolformer"),
)
"""All of them, in the order in which the stages run."""


_TEXT_COLUMNS = of(t.TF_SEED_POOL, "text")


_CALL = of(t.TF_TOOL_RESULTS, "tool", "arguments", "result")


_LOSSES = ("loss_no_call", "loss_call", "loss_call_with_result")


TOOL_COLUMN_SOURCES: dict[str, dict[str, list[Source]]] = {
    t.SEED_TEXTS.name: new("parents", *t.SEED_TEXTS.content),
    t.TF_SEED_POOL.name: {
        "parents": of(t.SEED_TEXTS, "id"),
        **same(t.SEED_TEXTS, *t.TF_SEED_POOL.content),
    },
    t.TF_SEARCH_INDEX.name: new("parents", *t.TF_SEARCH_INDEX.content, *t.TF_SEARCH_INDEX.measures),
    t.TF_CALL_POSITIONS.name: {
        **each(of(t.TF_SEED_POOL, "id"), "parents", "text_id"),
        **each(_TEXT_COLUMNS, "positions", "chosen", "probabilities"),
        **new("tool"),
    },
    t.TF_RAW_GENERATIONS.name: {
        **drawn(
            [*of(t.TF_CALL_POSITIONS, "text_id", "id")],
            [*_TEXT_COLUMNS, *of(t.TF_CALL_POSITIONS, "tool", "chosen")],
        ),
        **same(t.TF_CALL_POSITIONS, "text_id", "tool"),
        "position": of(t.TF_CALL_POSITIONS, "chosen"),
    },
    t.TF_TOOL_RESULTS.name: {
        **each(of(t.TF_RAW_GENERATIONS, "id"), "parents", "generation_id"),
        **same(t.TF_RAW_GENERATIONS, "text_id", "tool", "position"),
        "arguments": of(t.TF_RAW_GENERATIONS, "text"),
        **each(
            [
                *of(t.TF_RAW_GENERATIONS, "text"),
                *of(t.TF_SEED_POOL, "date"),
                *of(t.TF_SEARCH_INDEX, "tool_version"),
            ],
            *("result", "problem"),
        ),
        **new("tool_version"),
    },
    t.TF_PERPLEXITY_SCORES.name: {
        **each(of(t.TF_TOOL_RESULTS, "id"), "parents", "candidate_id"),
        **each([*_TEXT_COLUMNS, *_CALL, *of(t.TF_TOOL_RESULTS, "position")], *_LOSSES),
    },
    t.TF_DECISIONS.name: decided(
        of(t.TF_TOOL_RESULTS, "id"),
        [
            *of(t.TF_TOOL_RESULTS, "text_id", "position", "tool", "arguments", "result", "problem"),
            *of(t.TF_PERPLEXITY_SCORES, *_LOSSES),
        ],
    ),
    t.TF_FILTERED_DATASET.name: {
        "parents": [*of(t.TF_SEED_POOL, "id"), *of(t.TF_TOOL_RESULTS, "id")],
        "text_id": of(t.TF_SEED_POOL, "id"),
        "question": _TEXT_COLUMNS,
        "completion": [*_TEXT_COLUMNS, *_CALL, *of(t.TF_TOOL_RESULTS, "position")],
        "calls": [*of(t.TF_TOOL_RESULTS, "id", "position"), *_CALL],
        **each(of(t.TF_PERPLEXITY_SCORES, *_LOSSES), "loss_reduction", "loss_reductions"),
        **new("format", "prompt"),
    },
    **training_stages("toolformer", t.TF_FILTERED_DATASET, shown=[], exam=t.TF_EVALUATION),
}
