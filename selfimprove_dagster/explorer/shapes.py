"""Derive the kind of a table and its text columns from its columns.

The pages also show tables of methods that are not installed, of which nothing else is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.table import COMMON_COLUMNS, TEXT, Row, Table, is_decisions, said_of

TEXTS = (
    *("question", "instruction", "input", "constraints", "output", "paraphrase"),
    *("prompt", "text", "completion", "reasoning", "excerpt", "option_a", "option_b", "note"),
    *("response", "chosen", "rejected", "first_prompt", "first", "second_prompt", "second", "statement"),
)
"""Usual names of text columns, in reading order."""

_NOT_READ = (
    *("source_file", "licence", "format", "kind", "role", "mode", "way", "by", "at", "path", "rule", "stage"),
    *("finish_reason", "difficulty", "table", "label", "reason", "error", "stopped"),
)
"""String columns that hold names, codes or remarks."""


def text_columns(table: Table) -> list[str]:
    """Return the text columns: those with usual names, or else all strings that are not codes."""
    strings = [name for name, kind in table.content.items() if kind == TEXT]
    return [name for name in TEXTS if name in strings] or [
        name for name in strings if name not in _NOT_READ and not name.endswith(("_id", "_hash"))
    ]


def in_words(row: Row, table: Table) -> str:
    """Describe a row in a few words: its noun and its content."""
    if result := outcome(row, table):
        return result
    said = said_of(table, row)
    return f"{table.noun}: {said}" if said else table.noun


def outcome(row: Row, table: Table) -> str | None:
    """Describe a row of a table that every method has in a few words; None for other tables."""
    if is_decisions(table):
        return f"{row['rule']}: {'kept' if row['kept'] else 'dropped'}"
    if table.holds_model:
        return f"{table.noun} of {row['examples']:,} examples"
    if "promoted" in table.content:
        return "promoted" if row["promoted"] else "not promoted"
    return None


def table_of(manifest: Manifest) -> Table:
    """Return the table as its method declares it, or, if the method is not installed, from its files."""
    return registry.tables().get(manifest.table) or unknown_table(manifest.table, _columns(manifest))


def unknown_table(name: str, columns: Mapping[str, Any]) -> Table:
    """Return a table that no installed method declares."""
    content = {column: kind for column, kind in columns.items() if column not in COMMON_COLUMNS}
    return Table(name, "x", noun=name.split("/")[-1].replace("_", " "), content=content)


def _columns(manifest: Manifest) -> Mapping[str, Any]:
    return pl.read_parquet_schema(manifest.paths[0]) if manifest.paths else {}
