"""Declare which columns a column comes from: the fact `sources` of a table.

Dagster's column lineage and OpenLineage's facet are built from these declarations. They apply to all rows of
a table; the lineage of single rows is in their parents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfimprove_dagster.table import Columns, Source, Table


def of(table: Table | str, *columns: str) -> list[Source]:
    """Return columns of a table as sources. A table of another method is given by its name."""
    return [(table if isinstance(table, str) else table.name, column) for column in columns]


def new(*columns: str) -> dict[str, list[Source]]:
    """Declare columns that come from outside the lake: from a file, a setting, a clock."""
    return {column: [] for column in columns}


def same(table: Table, *columns: str) -> dict[str, list[Source]]:
    """Declare columns that are copied from columns with the same names."""
    return {column: of(table, column) for column in columns}


def each(sources: Sequence[Source], *columns: str) -> dict[str, list[Source]]:
    """Declare columns that all have the same sources."""
    return {column: list(sources) for column in columns}


def pooled(seeds: Table, content: Mapping[str, object]) -> Columns:
    """Declare the columns of a pool whose rows are copies of seeds."""
    return {"parents": of(seeds, "id"), **same(seeds, *content)}


def drawn(parents: Sequence[Source], prompt: Sequence[Source], *given: str) -> Columns:
    """Declare the columns of completions.

    `prompt` are the columns in their prompts, `given` comes from settings.
    """
    return {
        "parents": list(parents),
        **each(prompt, "prompt", "prompt_token_ids", "token_ids", "text", "finish_reason", "logprobs"),
        **each(prompt[:1], "seed"),
        **new(*given),
    }


def decided(candidates: Sequence[Source], judged: Sequence[Source]) -> Columns:
    """Declare the columns of decisions on `candidates`, which were judged by the columns `judged`."""
    return {
        **each(candidates, "parents", "candidate_id"),
        **each(judged, "kept", "reason", "score", "nearest_id"),
        **new("stage", "rule", "threshold"),
    }
