"""Tables that belong to no method: imported seeds, rejected lines, and what people said when they were asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from selfimprove_dagster.column_sources import each, new
from selfimprove_dagster.table import SOURCE, TEXT, Columns, Row, Table
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


SHOWN: dict[str, Any] = {
    "item_id": TEXT,
    "table": TEXT,
    "prompt": TEXT,
    "option_a": TEXT,
    "option_b": TEXT,
    "swapped": pl.Boolean,
}
"""What a person sees; `swapped` where the record's second is option A."""


_LABELS = {"a": "A is better", "b": "B is better", "both": "both are good", "neither": "neither is good"}


def _label(row: Row) -> str:
    return f"{row['by']} at {row['at']}: {_LABELS[row['label']]}"


REVIEW_LABELS = Table(
    "reviews/labels",
    "label",
    noun="review",
    sentence=_label,
    content={**SHOWN, "label": TEXT, "by": TEXT, "at": TEXT, "note": TEXT},
)
"""What people said (`label` is a, b, both or neither), by batch; a later one of a person on an item counts.
Parent: the record that was reviewed, `item_id` of `table`; of two rewarded responses, both."""


def label_sources(tables: Iterable[Table]) -> Columns:
    """The sources of the labels' columns, which depend on the tables that people are asked about."""
    asked = [table for table in tables if table.reviewed]
    shown = [table.reviewed for table in asked if table.reviewed]
    return {
        **each([(table.name, "id") for table in asked], "parents", "item_id", "swapped"),
        "prompt": [source for one in shown for source in one.prompt],
        **each([source for one in shown for source in one.options], "option_a", "option_b"),
        **new("table", "label", "by", "at", "note"),
    }
