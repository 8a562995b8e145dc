"""The tables of what people are asked, and of what they say."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.table import TEXT, Table

_SHOWN: dict[str, Any] = {
    "item_id": TEXT,
    "table": TEXT,
    "prompt": TEXT,
    "option_a": TEXT,
    "option_b": TEXT,
    "swapped": pl.Boolean,
}
"""What a person sees; `swapped` where the record's second is option A."""


REVIEW_LABELS = Table(
    "reviews/labels",
    "label",
    noun="review",
    content={**_SHOWN, "label": TEXT, "by": TEXT, "at": TEXT, "note": TEXT},
)
"""What people said (`label` is a, b, both or neither), by batch; a later one of a person on an item counts.
Parent: the record that was reviewed, `item_id` of `table`; of two rewarded responses, both."""
