"""The tables of seeds: questions as they were imported, and the lines that are no seeds."""

from __future__ import annotations

from selfimprove_dagster.table import SOURCE, TEXT, Row, Table
from selfimprove_dagster.words import accepted, source_of


def _question(row: Row) -> str:
    return accepted(row, row["question"])


def _rejected(row: Row) -> str:
    return f"{source_of(row)} is no seed: {row['reason']}"


SEEDS = Table("seeds/accepted", "seed", noun="seed", sentence=_question, content={"question": TEXT, **SOURCE})
"""Unlabelled questions as they were imported, by file and line."""


REJECTED_SEEDS = Table(
    "seeds/rejected",
    "rej",
    noun="rejected line",
    sentence=_rejected,
    content={"reason": TEXT, "excerpt": TEXT, **SOURCE},
)
"""Lines that are no seeds, each with the reason."""
