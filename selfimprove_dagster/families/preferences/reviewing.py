"""Rewarded responses that people are asked about."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lots import lots
from selfimprove_dagster.review.uncertainty import items_of


def rewarded_items(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """The items of a partition of rollouts, with the prompts of its method's seed pool."""
    columns = ["id", "activity_id", "prompt_id", "prompt", "step", "text", "reward"]
    pool = f"{manifest.table.split('/')[0]}/seed_pool"
    asked = lake.read_columns(lake.manifest(pool, manifest.partition), ["id", "prompt"])
    written = lake.read_columns(manifest, columns).join(
        asked.rename({"id": "prompt_id", "prompt": "asked"}), on="prompt_id", how="left"
    )
    return of_rewards(written.with_columns(prompt=pl.coalesce("asked", "prompt")))


def of_rewards(rollouts: pl.DataFrame) -> pl.DataFrame:
    """Items of rollouts: of each prompt's last step, the most and the least rewarded, where they differ.

    Empty responses are left out, and of equally rewarded ones a random one is taken. The item has the id of the most
    rewarded record. The uncertainty is 1 − |2σ(Δ) − 1|, where Δ is the difference of the rewards (Bradley and Terry).
    """
    rewarded = rollouts.filter(pl.col("reward").is_finite())
    last = rewarded.filter(pl.col("step") == pl.col("step").max().over("prompt_id"))
    said = last.filter(pl.col("text").str.contains(r"\S"))
    ranked = said.with_columns(lots(said, ["prompt", "text"], 0)).sort(
        "reward", "lot", "id", descending=[True, False, False]
    )
    groups = ranked.group_by("prompt_id").agg(
        "activity_id",
        "id",
        pl.col("prompt").first(),
        pl.col("text"),
        pl.col("reward"),
    )
    return items_of(
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
