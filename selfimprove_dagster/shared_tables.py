"""Define tables that belong to no method: imported seeds, rejected lines, and labels by people."""

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
    return f"{source_of(row)} was rejected: {row['reason']}"


SEEDS = Table(
    "seeds/accepted",
    "seed",
    noun="seed",
    sentence=_question,
    content={"question": TEXT, **SOURCE},
    sources=new("parents", "question", *SOURCE),
)
"""Unlabelled questions as imported, by file and line."""


REJECTED_SEEDS = Table(
    "seeds/rejected",
    "rej",
    noun="rejected line",
    sentence=_rejected,
    content={"reason": TEXT, "excerpt": TEXT, **SOURCE},
    sources=new("parents", "reason", "excerpt", *SOURCE),
)
"""Rejected lines of seed files, each with the reason."""


def _answer(row: Row) -> str:
    return accepted(row, row["answer"])


SEED_ANSWERS = Table(
    "seeds/answers",
    "sans",
    noun="true answer",
    sentence=_answer,
    content={"answer": TEXT, **SOURCE},
    sources={**each([(SEEDS.name, "id")], "parents"), **new("answer", *SOURCE)},
)
"""True answers of seeds, as their file has them, for methods that learn from true answers. The parent is the seed."""


SHOWN: dict[str, Any] = {
    "item_id": TEXT,
    "table": TEXT,
    "prompt": TEXT,
    "option_a": TEXT,
    "option_b": TEXT,
    "swapped": pl.Boolean,
}
"""Columns that a person sees; `swapped` if the record's second option is A."""


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
"""Labels by people (`label` is a, b, both or neither), by batch; the latest label of a person on an item
counts. The parent is the reviewed record, `item_id` of `table`; for two rewarded responses, both are
parents."""


def label_sources(tables: Iterable[Table]) -> Columns:
    """Return the sources of the labels' columns, which depend on the tables that people review."""
    asked = [table for table in tables if table.reviewed]
    shown = [table.reviewed for table in asked if table.reviewed]
    return {
        **each([(table.name, "id") for table in asked], "parents", "item_id", "swapped"),
        "prompt": [source for one in shown for source in one.prompt],
        **each([source for one in shown for source in one.options], "option_a", "option_b"),
        **new("table", "label", "by", "at", "note"),
    }
