"""Which pairs a person should look at: those of which the pipeline itself is least certain.

Uncertainty runs from 0, settled, to 1, a coin toss. What it is made of depends on who judged:

    a vote          1 − margin, the share of votes by which the voted answer leads the runner-up
    a preference    1 − |2p − 1| · (1 − |p_A − p_B|): how near p is to one half, and how far apart the
                    probabilities are with the response shown as (A) and as (B)
    two rewards     1 − |2σ(Δ) − 1|, where Δ is the difference of the rewards (Bradley and Terry)

`first` and `second` are what the record calls so: voted answer and runner-up, first and second response,
most and least rewarded. `probability` is that of the first being the better, by who judged.
"""

from __future__ import annotations

import math
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


def of_votes(votes: pl.DataFrame) -> pl.DataFrame:
    """Items of `lmsi/voted_answers` in which two answers had votes; `first` and `second` are ids of paths.

    Each answer is stood for by one of the paths that led to it, drawn by lot.
    """
    return _items(item for row in votes.iter_rows(named=True) if (item := _of_vote(row)))


def _of_vote(row: dict[str, Any]) -> dict[str, Any] | None:
    counts = {vote["answer"]: vote["count"] for vote in row["votes"]}
    voted = row["voted_answer"]
    rivals = [answer for answer in counts if answer != voted]
    if voted not in counts or not rivals:
        return None
    rival = max(rivals, key=lambda answer: (counts[answer], answer))

    def path_to(answer: str) -> str:
        paths = [path["id"] for path in row["paths"] if path["answer"] == answer]
        return min(paths, key=lambda path: seed_of(row["id"], path))

    lead, valid = counts[voted], sum(counts.values())
    return {
        "item_id": row["id"],
        "activity_id": row["activity_id"],
        "records": [row["id"]],
        "prompt": row["question"],
        "first": path_to(voted),
        "second": path_to(rival),
        "probability": lead / (lead + counts[rival]),
        "uncertainty": 1 - abs(lead - counts[rival]) / valid,
        "reason": f"of {valid} paths, {lead} say what the one says and {counts[rival]} what the other says",
    }


def of_preferences(preferences: pl.DataFrame) -> pl.DataFrame:
    """Items of `rlaif/ai_preferences` whose responses differ."""
    return _items(
        _of_preference(row)
        for row in preferences.iter_rows(named=True)
        if row["probability"] is not None and row["first"] != row["second"]
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


def of_rewards(rollouts: pl.DataFrame) -> pl.DataFrame:
    """Items of rollouts: of each prompt's last step, the most and the least rewarded, where they differ.

    The item is named by the record of the most rewarded.
    """
    rewarded = rollouts.filter(pl.col("reward").is_finite())
    last = rewarded.filter(pl.col("step") == pl.col("step").max().over("prompt_id"))
    ranked = last.sort("reward", "id", descending=[True, False])
    groups = ranked.group_by("prompt_id").agg(
        "activity_id",
        "id",
        pl.col("prompt").first(),
        pl.col("text"),
        pl.col("reward"),
    )
    return _items(
        _of_rewarded(row) for row in groups.iter_rows(named=True) if row["text"][0] != row["text"][-1]
    )


def _of_rewarded(row: dict[str, Any]) -> dict[str, Any]:
    apart = row["reward"][0] - row["reward"][-1]
    decided = math.tanh(apart / 2)  # 2σ(Δ) − 1
    return {
        "item_id": row["id"][0],
        "activity_id": row["activity_id"][0],
        "records": [row["id"][0], row["id"][-1]],
        "prompt": row["prompt"],
        "first": row["text"][0],
        "second": row["text"][-1],
        "probability": (1 + decided) / 2,
        "uncertainty": 1 - decided,
        "reason": f"their rewards are {apart:.2f} apart, the most and the least of "
        f"{len(row['reward'])} responses",
    }


def _items(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=ITEM)
