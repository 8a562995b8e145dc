"""Filters that decide over all candidates at once, where the candidates are handed out shard by shard.

A limit over a whole table is decided on a few narrow columns of all candidates. The decisions travel with the rows,
and the shard that a candidate is in records them.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from selfimprove_dagster.filters.rules import DECISION_COLUMNS

_ROWS = 10_000


def in_parts(rows: pl.LazyFrame, together: str, size: int = _ROWS) -> Iterator[pl.DataFrame]:
    """The rows of a query, about `size` at a time.

    Neighbouring rows that are equal in the column `together` come in one part.
    """
    waiting = pl.DataFrame(schema=rows.collect_schema())
    for batch in rows.collect_batches(chunk_size=size, maintain_order=True):
        waiting = pl.concat([waiting, batch])
        values = waiting[together]
        starts = (values != values.shift()).fill_null(True).arg_true()
        if len(starts) > 1:
            yield waiting.head(starts[-1])
            waiting = waiting.slice(starts[-1])
    if not waiting.is_empty():
        yield waiting


def with_verdicts(
    rows: pl.LazyFrame, decisions: pl.DataFrame, of: str = "candidate_id", name: str = "verdicts"
) -> pl.LazyFrame:
    """The rows, with the decisions on the candidate in the column `of` as the column `name`."""
    recorded = decisions.group_by("candidate_id", maintain_order=True).agg(
        pl.struct(pl.exclude("candidate_id")).alias(name)
    )
    return rows.join(recorded.lazy(), left_on=of, right_on="candidate_id", how="left", maintain_order="left")


def apply_verdicts(candidates: pl.DataFrame, name: str = "verdicts") -> tuple[pl.DataFrame, pl.DataFrame]:
    """The candidates that the decisions of `with_verdicts` keep, and these decisions."""
    recorded = candidates.select("candidate_id", name).drop_nulls(name)
    decisions = recorded.explode(name).unnest(name).select(DECISION_COLUMNS.keys())
    dropped = decisions.filter(~pl.col("kept")).select("candidate_id")
    kept = candidates.join(dropped, on="candidate_id", how="anti", maintain_order="left")
    return kept.drop(name), decisions
