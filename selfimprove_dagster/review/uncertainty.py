"""Which pairs a person should look at: those of which the pipeline itself is least certain.

Uncertainty runs from 0, settled, to 1, a coin toss. What it is made of depends on who judged, and is defined where the
judging is: a vote, a model that compares, a reward model.

`first` and `second` are what the record calls so: voted answer and runner-up, first and second response,
most and least rewarded. `probability` is that of the first being the better, by who judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from selfimprove_dagster.lots import seed_of

ITEM: dict[str, Any] = {
    "item_id": pl.String,
    "activity_id": pl.String,
    "records": pl.List(pl.String),
    "prompt": pl.String,
    "first": pl.String,
    "second": pl.String,
    "probability": pl.Float64,
    "uncertainty": pl.Float64,
    "reason": pl.String,
}
"""Columns of an item: a record's id, its activity, the records that it consists of, and what is compared."""


def least_certain(items: pl.DataFrame, count: int) -> pl.DataFrame:
    """The `count` items of the highest uncertainty, highest first, as a person is shown them.

    To the columns of `items` are added option_a, option_b and swapped: which of the two stands first is drawn
    by lot from the item's id, so that whoever tends to the first option tends to neither response. The same
    whatever the order of the rows is.
    """
    ranked = items.sort("uncertainty", "item_id", descending=[True, False]).head(count)
    swapped = [seed_of("shown", item) % 2 == 1 for item in ranked["item_id"]]
    return ranked.with_columns(pl.Series("swapped", swapped, dtype=pl.Boolean)).with_columns(
        option_a=pl.when("swapped").then("second").otherwise("first"),
        option_b=pl.when("swapped").then("first").otherwise("second"),
    )


def items_of(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Rows with the columns of ITEM as a frame."""
    return pl.DataFrame(list(rows), schema=ITEM)
