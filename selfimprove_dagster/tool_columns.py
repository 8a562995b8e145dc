"""Which column comes from which, in the tables of Toolformer."""

from __future__ import annotations

from selfimprove_dagster import tool_tables as t
from selfimprove_dagster.column_sources import Source, decided, drawn, each, new, of, same, training_stages

_TEXT = of(t.TF_SEED_POOL, "text")
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
        **each(_TEXT, "positions", "chosen", "probabilities"),
        **new("tool"),
    },
    t.TF_RAW_GENERATIONS.name: {
        **drawn(
            [*of(t.TF_CALL_POSITIONS, "text_id", "id")],
            [*_TEXT, *of(t.TF_CALL_POSITIONS, "tool", "chosen")],
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
        **each([*_TEXT, *_CALL, *of(t.TF_TOOL_RESULTS, "position")], *_LOSSES),
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
        "question": _TEXT,
        "completion": [*_TEXT, *_CALL, *of(t.TF_TOOL_RESULTS, "position")],
        "calls": [*of(t.TF_TOOL_RESULTS, "id", "position"), *_CALL],
        **each(of(t.TF_PERPLEXITY_SCORES, *_LOSSES), "loss_reduction", "loss_reductions"),
        **new("format", "prompt"),
    },
    **training_stages("toolformer", t.TF_FILTERED_DATASET, shown=[], exam=t.TF_EVALUATION),
}
