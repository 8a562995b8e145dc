"""Votes that people are asked about: the voted answer against its runner-up."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.review.uncertainty import items_of


def voted_items(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """The items of a partition of votes, with the texts of the paths."""
    columns = ["id", "activity_id", "question", "voted_answer", "votes", "paths"]
    items = of_votes(lake.read_columns(manifest, columns))
    drawn = lake.manifest("lmsi/raw_generations", manifest.partition)
    paths = lake.read_columns(drawn, ["id", "text"])
    for side in ("first", "second"):
        text = paths.select(pl.col("id").alias(side), pl.col("text").str.strip_chars().alias("said"))
        items = items.join(text, on=side).with_columns(pl.col("said").alias(side)).drop("said")
    return items


def of_votes(votes: pl.DataFrame) -> pl.DataFrame:
    """Items of votes in which two answers had votes; `first` and `second` are ids of paths.

    Each answer is represented by one of the paths that led to it, chosen at random. The uncertainty is 1 − margin, the
    share of all paths by which the voted answer leads the runner-up.
    """
    return items_of(item for row in votes.iter_rows(named=True) if (item := _of_vote(row)))


def _of_vote(row: dict[str, Any]) -> dict[str, Any] | None:
    counts = {vote["answer"]: vote["count"] for vote in row["votes"]}
    voted = row["voted_answer"]
    rivals = [answer for answer in counts if answer != voted]
    if voted not in counts or not rivals:
        return None
    rival = max(rivals, key=lambda answer: (counts[answer], answer))

    def path_to(answer: str) -> str:
        paths = [(place, path["id"]) for place, path in enumerate(row["paths"]) if path["answer"] == answer]
        return min(paths, key=lambda path: seed_of(row["question"], answer, path[0]))[1]

    lead, every = counts[voted], len(row["paths"])
    return {
        "item_id": row["id"],
        "activity_id": row["activity_id"],
        "records": [row["id"]],
        "prompt": row["question"],
        "first": path_to(voted),
        "second": path_to(rival),
        "probability": lead / (lead + counts[rival]),
        "uncertainty": 1 - abs(lead - counts[rival]) / every,
        "reason": f"of {every} paths, {lead} say what the one says and {counts[rival]} what the other says",
    }
