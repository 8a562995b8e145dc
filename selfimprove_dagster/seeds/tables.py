"""The tables of seeds that belong to no method."""

from __future__ import annotations

from selfimprove_dagster.column_sources import new
from selfimprove_dagster.table import SOURCE, TEXT, Row, Table
from selfimprove_dagster.words import accepted, source_of


def _question(row: Row) -> str:
    return accepted(row, row["question"])


def _rejected(row: Row) -> str:
    return f"{source_of(row)} is no seed: {row['reason']}"


SEEDS = Table(
    "seeds/accepted",
    "seed",
    noun="seed",
    sentence=_question,
    content={"question": TEXT, **SOURCE},
    sources=new("parents", "question", *SOURCE),
)
"""Unlabelled questions as they were imported, by file and line."""


REJECTED_SEEDS = Table(
    "seeds/rejected",
    "rej",
    noun="rejected line",
    sentence=_rejected,
    content={"reason": TEXT, "excerpt": TEXT, **SOURCE},
    sources=new("parents", "reason", "excerpt", *SOURCE),
)
"""Lines that are no seeds, each with the reason."""
