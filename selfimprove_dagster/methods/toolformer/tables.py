"""The tables of Toolformer."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.column_sources import decided, drawn, each, new, of, pooled, same
from selfimprove_dagster.families.trained.tables import evaluation, fine_tuned_checkpoint, promotion
from selfimprove_dagster.methods.toolformer import words
from selfimprove_dagster.methods.toolformer.checks import (
    CALL_DATASET_CHECKS,
    LOSS_CHECKS,
    POSITION_CHECKS,
    SAMPLED_CALL_CHECKS,
    TEXT_POOL_CHECKS,
    TOOL_EVALUATION_CHECKS,
    TOOL_RESULT_CHECKS,
)
from selfimprove_dagster.table import PROBLEM, SOURCE, TEXT, Draw, Table, completions, decisions
from selfimprove_dagster.tools.calls import CALL_STOPS

_TEXT: dict[str, Any] = {"text": TEXT, "date": TEXT, "source": TEXT, **SOURCE}


SEED_TEXTS = Table(
    "seeds/texts",
    "stext",
    noun="seed text",
    sentence=words.text,
    content=_TEXT,
    sources=new("parents", *_TEXT),
)
"""Plain texts as they were imported, by file and line; `date` is ISO 8601, `source` the file's word."""


TF_SEED_POOL = Table(
    "toolformer/seed_pool",
    "text",
    noun="text",
    sentence=words.text,
    content=_TEXT,
    sources=pooled(SEED_TEXTS, _TEXT),
    checks=TEXT_POOL_CHECKS,
)
"""The texts of one iteration; parent: the seed."""


_SAID = of(TF_SEED_POOL, "text")


TF_SEARCH_INDEX = Table(
    "toolformer/search_index",
    "index",
    noun="search index",
    sentence=words.search_index,
    content={"tool": TEXT, "corpus": TEXT, "tool_version": TEXT},
    measures={"passages": pl.Int64},
    sources=new("parents", "tool", "corpus", "tool_version", "passages"),
)
"""One row where the experiment searches: the corpus, and the index that was built of it."""


TF_CALL_POSITIONS = Table(
    "toolformer/call_positions",
    "pos",
    noun="call positions",
    sentence=words.places,
    content={
        "text_id": TEXT,
        "tool": TEXT,
        "positions": pl.List(pl.Int32),
        "chosen": pl.List(pl.Int32),
    },
    measures={"probabilities": pl.List(pl.Float32), **PROBLEM},
    later=frozenset(PROBLEM),
    sources={
        **each(of(TF_SEED_POOL, "id"), "parents", "text_id"),
        **each(_SAID, "positions", "chosen", "probabilities", "problem"),
        **new("tool"),
    },
    checks=POSITION_CHECKS,
)
"""One row a text and tool: at which characters a token begins, the probability that a call opens there, and
where calls are sampled; none with a `problem` where the text is too long to be read. Parent: the text."""


TF_RAW_GENERATIONS = completions(
    "toolformer/raw_generations",
    "gen",
    noun="sampled call",
    sentence=words.drawn_call,
    content={"text_id": TEXT, "tool": TEXT, "position": pl.Int32},
    sources={
        **drawn(of(TF_CALL_POSITIONS, "text_id", "id"), [*_SAID, *of(TF_CALL_POSITIONS, "tool", "chosen")]),
        **same(TF_CALL_POSITIONS, "text_id", "tool"),
        "position": of(TF_CALL_POSITIONS, "chosen"),
    },
    checks=SAMPLED_CALL_CHECKS,
    draw=Draw("annotation", "annotation", stops=lambda section: CALL_STOPS),
)
"""Sampled calls, from the opening bracket to the end of the input; parents: the text and its positions."""


TF_TOOL_RESULTS = Table(
    "toolformer/tool_results",
    "call",
    noun="call",
    sentence=words.answered,
    said=words.said,
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
    sources={
        **each(of(TF_RAW_GENERATIONS, "id"), "parents", "generation_id"),
        **same(TF_RAW_GENERATIONS, "text_id", "tool", "position"),
        "arguments": of(TF_RAW_GENERATIONS, "text"),
        **each(
            [
                *of(TF_RAW_GENERATIONS, "text"),
                *of(TF_SEED_POOL, "date"),
                *of(TF_SEARCH_INDEX, "tool_version"),
            ],
            *("result", "problem"),
        ),
        **new("tool_version"),
    },
    checks=TOOL_RESULT_CHECKS,
)
"""The call read out of each completion and what its tool said, or the problem; parent: the completion."""


_CALL = of(TF_TOOL_RESULTS, "tool", "arguments", "result")


_LOSSES = ("loss_no_call", "loss_call", "loss_call_with_result")


TF_PERPLEXITY_SCORES = Table(
    "toolformer/perplexity_scores",
    "loss",
    noun="loss comparison",
    sentence=words.scored,
    content={"candidate_id": TEXT},
    measures={
        "loss_no_call": pl.Float64,
        "loss_call": pl.Float64,
        "loss_call_with_result": pl.Float64,
        **PROBLEM,
    },
    later=frozenset(PROBLEM),
    sources={
        **each(of(TF_TOOL_RESULTS, "id"), "parents", "candidate_id"),
        **each([*_SAID, *_CALL, *of(TF_TOOL_RESULTS, "position")], *_LOSSES, "problem"),
    },
    checks=LOSS_CHECKS,
)
"""The weighted losses of what follows a call, in nats: without it, with it, with its result too; null where
a call could not pass any more, or with a `problem` where it could not be scored. Parent: the call."""


TF_DECISIONS = decisions(
    "toolformer/decisions",
    sources=decided(
        of(TF_TOOL_RESULTS, "id"),
        [
            *of(TF_TOOL_RESULTS, "text_id", "position", "tool", "arguments", "result", "problem"),
            *of(TF_PERPLEXITY_SCORES, *_LOSSES),
        ],
    ),
)
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
    sentence=words.example,
    content={
        "question": TEXT,
        "format": TEXT,
        "prompt": TEXT,
        "completion": TEXT,
        "text_id": TEXT,
        "calls": pl.List(CALL),
    },
    measures={"loss_reduction": pl.Float64, "loss_reductions": pl.List(pl.Float64)},
    sources={
        "parents": [*of(TF_SEED_POOL, "id"), *of(TF_TOOL_RESULTS, "id")],
        "text_id": of(TF_SEED_POOL, "id"),
        "question": _SAID,
        "completion": [*_SAID, *_CALL, *of(TF_TOOL_RESULTS, "position")],
        "calls": [*of(TF_TOOL_RESULTS, "id", "position"), *_CALL],
        **each(of(TF_PERPLEXITY_SCORES, *_LOSSES), "loss_reduction", "loss_reductions"),
        **new("format", "prompt"),
    },
    checks=CALL_DATASET_CHECKS,
)
"""Texts with their calls written in; parents: the text and every call. `question` is the text without calls,
`loss_reductions` what each call saves in nats, in their order, `loss_reduction` the most of them."""


MADE_CALL = pl.Struct(
    {"position": pl.Int32, "written": TEXT, "tool": TEXT, "arguments": TEXT, "result": TEXT, "problem": TEXT}
)


TF_CHECKPOINT = fine_tuned_checkpoint("toolformer", TF_FILTERED_DATASET)


TF_EVALUATION = evaluation(
    "toolformer",
    TF_CHECKPOINT,
    content={"calls": pl.List(MADE_CALL)},
    measures={"nats": pl.Float64, "tokens": pl.Int32},
    checks=TOOL_EVALUATION_CHECKS,
)
"""One row a held-out beginning, model and mode (with_tools, greedy), and one a plain text (`plain`) with its
negative log-probability."""


TF_PROMOTION = promotion("toolformer", TF_CHECKPOINT, TF_EVALUATION)


TABLES = (
    TF_SEED_POOL,
    TF_SEARCH_INDEX,
    TF_CALL_POSITIONS,
    TF_RAW_GENERATIONS,
    TF_TOOL_RESULTS,
    TF_PERPLEXITY_SCORES,
    TF_DECISIONS,
    TF_FILTERED_DATASET,
    TF_CHECKPOINT,
    TF_EVALUATION,
    TF_PROMOTION,
)
"""In the order of the pipeline."""
