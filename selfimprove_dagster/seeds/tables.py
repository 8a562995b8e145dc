"""The tables of seeds that belong to no method."""

from __future__ import annotations

from selfimprove_dagster.column_sources import new
from selfimprove_dagster.table import SOURCE, TEXT, Table

SEEDS = Table(
    "seeds/accepted",
    "seed",
    noun="seed",
    content={"question": TEXT, **SOURCE},
    sources=new("parents", "question", *SOURCE),
)
"""Unlabelled questions as they were imported, by file and line."""


REJECTED_SEEDS = Table(
    "seeds/rejected",
    "rej",
    noun="rejected line",
    content={"reason": TEXT, "excerpt": TEXT, **SOURCE},
    sources=new("parents", "reason", "excerpt", *SOURCE),
)
"""Lines that are no seeds, each with the reason."""
