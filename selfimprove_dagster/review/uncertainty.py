"""Select pairs for review: those about which the pipeline is least certain.

Uncertainty ranges from 0 (certain) to 1 (a coin toss). Its definition depends on the judge (a vote, a model
that compares, a reward model) and is next to the code of the judge.

`first` and `second` depend on the record: voted answer and runner-up, first and second response, or highest
and lowest reward. `probability` is the judge's probability that the first is better.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from selfimprove_dagster.lots import lots, seed_of

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
"""Columns of an item: a record's id, its activity, its component records, and the compared texts."""


def least_certain(items: pl.DataFrame, count: int) -> pl.DataFrame:
    """Return the `count` items with the highest uncertainty, highest first, as they are shown to people.

    Equally uncertain items are in a random order that follows from their texts. It adds the columns option_a, option_b
    and swapped. The order of the two is pseudo-random, derived from the item's id, so that a position bias of a
    reviewer favours neither response. The result does not depend on the order of the rows.
    """
    drawn = items.with_columns(lots(items, ["prompt", "first", "second"], 0))
    ranked = (
        drawn.sort("uncertainty", "lot", "item_id", descending=[True, False, False]).head(count).drop("lot")
    )
    swapped = [seed_of("shown", item) % 2 == 1 for item in ranked["item_id"]]
    return ranked.with_columns(pl.Series("swapped", swapped, dtype=pl.Boolean)).with_columns(
        option_a=pl.when("swapped").then("second").otherwise("first"),
        option_b=pl.when("swapped").then("first").otherwise("second"),
    )


def items_of(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Return rows with the columns of ITEM as a frame."""
    return pl.DataFrame(list(rows), schema=ITEM)
