"""Preferences of a model that people are asked about."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.review.queue import labels
from selfimprove_dagster.review.uncertainty import ITEM, items_of, least_certain

SHOWN_OF_PREFERENCE = (
    *("id", "activity_id", "prompt", "first", "second"),
    *("probability", "as_first", "as_second"),
)
"""The columns of preferences that `of_preferences` reads."""


def preferred_items(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """The items of a partition of preferences."""
    return of_preferences(lake.read_columns(manifest, SHOWN_OF_PREFERENCE))


def least_certain_of(preferences: pl.LazyFrame, count: int, batch: int = 10_000) -> pl.DataFrame:
    """The `count` items of preferences that `least_certain` gives, read `batch` preferences at a time."""
    queue = least_certain(items_of([]), count)
    for rows in preferences.select(SHOWN_OF_PREFERENCE).collect_batches(chunk_size=batch):
        items = pl.concat([queue.select(*ITEM), of_preferences(rows)])
        queue = least_certain(items, count)
    return queue


def preferred_by_people(lake: Lake, experiment: str, preferences: pl.DataFrame) -> pl.DataFrame:
    """What people said of these rows of ai_preferences: `prompt_id, response_ids, preferred`.

    `preferred` is 0 for the first response, 1 for the second, null for both or neither. For calibration.
    """
    said = labels(lake, experiment).filter(table="rlaif/ai_preferences")
    told = said.select(
        "item_id", preferred=pl.col("label").replace_strict({"first": 0, "second": 1}, default=None)
    )
    pairs = preferences.select("prompt_id", "response_ids", item_id="id")
    return told.join(pairs, on="item_id", maintain_order="left").drop("item_id")


def of_preferences(preferences: pl.DataFrame) -> pl.DataFrame:
    """Items of preferences whose responses differ and say something.

    The uncertainty is 1 − |2p − 1| · (1 − |p_A − p_B|): how near p is to one half, and how far apart the
    probabilities are with the response shown as (A) and as (B).
    """
    return items_of(
        _of_preference(row)
        for row in preferences.iter_rows(named=True)
        if row["probability"] is not None
        and row["first"] != row["second"]
        and row["first"].strip()
        and row["second"].strip()
    )


def _of_preference(row: dict[str, Any]) -> dict[str, Any]:
    probability, orders = row["probability"], [row["as_first"], row["as_second"]]
    apart = 0.0 if None in orders else abs(orders[0] - orders[1])
    reason = f"the judge gives one response {max(probability, 1 - probability):.2f}"
    if None not in orders:
        flips = (orders[0] - 0.5) * (orders[1] - 0.5) < 0
        reason += f"; its two orders are {apart:.2f} apart" + (" and contradict each other" if flips else "")
    return {
        "item_id": row["id"],
        "activity_id": row["activity_id"],
        "records": [row["id"]],
        **{name: row[name] for name in ("prompt", "first", "second", "probability")},
        "uncertainty": 1 - abs(2 * probability - 1) * (1 - apart),
        "reason": reason,
    }
