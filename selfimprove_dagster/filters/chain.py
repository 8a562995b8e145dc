"""Filters in a row, and the decisions they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

Filter = Callable[[pl.DataFrame], pl.DataFrame]

DECISION_COLUMNS = {
    "candidate_id": pl.String,
    "rule": pl.String,
    "kept": pl.Boolean,
    "score": pl.Float64,
    "threshold": pl.Float64,
    "reason": pl.String,
    "nearest_id": pl.String,
}


def apply_filters(candidates: pl.DataFrame, filters: Sequence[Filter]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The candidates (column `candidate_id`) that pass all filters, and every decision on the way.

    Row order is kept. Each filter sees only what the ones before it kept.
    """
    decisions = [pl.DataFrame(schema=DECISION_COLUMNS)]
    for decide in filters:
        verdicts = decide(candidates)
        decisions.append(verdicts)
        kept = verdicts.filter("kept").select("candidate_id")
        candidates = candidates.join(kept, on="candidate_id", how="semi", maintain_order="left")
    return candidates, pl.concat(decisions)


def decision(
    candidates: pl.DataFrame,
    rule: str,
    *,
    kept: pl.Expr,
    reason: pl.Expr,
    score: pl.Expr | None = None,
    threshold: float | None = None,
    nearest_id: pl.Expr | None = None,
) -> pl.DataFrame:
    """One decision a candidate, from expressions over the candidates' columns.

    What cannot be decided, since a column has no value there, is dropped.
    """
    return candidates.select(
        pl.col("candidate_id"),
        pl.lit(rule).alias("rule"),
        kept.fill_null(False).alias("kept"),
        (pl.lit(None) if score is None else score).cast(pl.Float64).alias("score"),
        pl.lit(threshold, dtype=pl.Float64).alias("threshold"),
        reason.fill_null("nothing to decide it by: a value is missing").alias("reason"),
        (pl.lit(None) if nearest_id is None else nearest_id).cast(pl.String).alias("nearest_id"),
    )


def could_be_read(candidates: pl.DataFrame) -> pl.DataFrame:
    """Keep what was read out of a completion without a problem (column `problem`, null for none)."""
    problem = pl.col("problem")
    return decision(candidates, "readable", kept=problem.is_null(), reason=problem.fill_null("could be read"))
