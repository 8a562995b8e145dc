"""Functions that declare which columns a column comes from: the fact `sources` of a table.

They are declared once, for catalogs and for people: Dagster's column lineage and OpenLineage's facet are built from
them. Rows hold more, each with its own parents; these hold for all rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfimprove_dagster.table import Columns, Source, Table


def of(table: Table | str, *columns: str) -> list[Source]:
    """Columns of a table. A table of another method is given by its name."""
    return [(table if isinstance(table, str) else table.name, column) for column in columns]


def new(*columns: str) -> dict[str, list[Source]]:
    """Columns that come from outside the lake: from a file, a setting, a clock."""
    return {column: [] for column in columns}


def same(table: Table, *columns: str) -> dict[str, list[Source]]:
    """Columns that are copied from columns of the same names."""
    return {column: of(table, column) for column in columns}


def each(sources: Sequence[Source], *columns: str) -> dict[str, list[Source]]:
    """Columns that all come from the same columns."""
    return {column: list(sources) for column in columns}


def pooled(seeds: Table, content: Mapping[str, object]) -> Columns:
    """Columns of a pool whose rows are copies of seeds."""
    return {"parents": of(seeds, "id"), **same(seeds, *content)}


def drawn(parents: Sequence[Source], prompt: Sequence[Source], *given: str) -> Columns:
    """Columns of completions. `prompt` are the columns that their prompts show, `given` comes from settings."""
    return {
        "parents": list(parents),
        **each(prompt, "prompt", "prompt_token_ids", "token_ids", "text", "finish_reason", "logprobs"),
        **each(prompt[:1], "seed"),
        **new(*given),
    }


def decided(candidates: Sequence[Source], judged: Sequence[Source]) -> Columns:
    """Columns of decisions on `candidates`, which were judged by the columns `judged`."""
    return {
        **each(candidates, "parents", "candidate_id"),
        **each(judged, "kept", "reason", "score", "nearest_id"),
        **new("stage", "rule", "threshold"),
    }
