"""Every table of the lake: its columns, and the tag that opens the ids of its records."""

from __future__ import annotations

from selfimprove_dagster.table import (
    SOURCE,
    TEXT,
    Table,
)

SEEDS = Table("seeds/accepted", "seed", noun="seed", content={"question": TEXT, **SOURCE})
"""Unlabelled questions as they were imported, by file and line."""


REJECTED_SEEDS = Table(
    "seeds/rejected", "rej", noun="rejected line", content={"reason": TEXT, "excerpt": TEXT, **SOURCE}
)
"""Lines that are no seeds, each with the reason."""
