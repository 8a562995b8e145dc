"""Decisions over all candidates, handed on with their rows."""

from __future__ import annotations

from itertools import pairwise

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.filters.rules import DECISION_COLUMNS, Filter, apply_filters, decision
from selfimprove_dagster.filters.whole import apply_verdicts, in_parts, with_verdicts


def first(count: int, rule: str = "first") -> Filter:
    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        number = pl.int_range(pl.len())
        return decision(candidates, rule, kept=number < count, reason=pl.lit(f"of {count}"), score=number)

    return decide


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 8))
def test_parts_are_all_rows_in_order_and_none_splits_a_run(groups: list[int], size: int) -> None:
    rows = pl.DataFrame({"group": groups, "at": range(len(groups))}, schema={"group": pl.Int8, "at": pl.Int8})
    parts = [*in_parts(rows.lazy(), "group", size)]
    assert [at for part in parts for at in part["at"]] == rows["at"].to_list()
    for one, other in pairwise(parts):
        assert one["group"][-1] != other["group"][0]


def test_a_run_longer_than_a_part_comes_whole() -> None:
    rows = pl.LazyFrame({"group": ["a"] * 9 + [None, None]}, schema={"group": pl.String})
    assert [len(part) for part in in_parts(rows, "group", size=2)] == [9, 1, 1]


def test_shards_keep_and_record_what_was_decided_over_all() -> None:
    candidates = pl.DataFrame({"candidate_id": [f"c:{number}" for number in range(7)]})
    kept, decisions = apply_filters(candidates, [first(5), first(3, "again")])
    rows = with_verdicts(candidates.lazy(), decisions).collect()
    applied = [apply_verdicts(rows[start : start + 2]) for start in range(0, 7, 2)]
    assert pl.concat([one for one, _ in applied]).equals(kept)
    order = ["candidate_id", "rule"]
    recorded = pl.concat([one for _, one in applied])
    assert dict(recorded.schema) == DECISION_COLUMNS
    assert recorded.sort(order, descending=[False, True]).equals(
        decisions.sort(order, descending=[False, True])
    )


def test_without_any_decision_everything_stays() -> None:
    candidates = pl.DataFrame({"candidate_id": ["a", "b"], "text": ["x", "y"]})
    rows = with_verdicts(candidates.lazy(), pl.DataFrame(schema=DECISION_COLUMNS)).collect()
    kept, decisions = apply_verdicts(rows)
    assert kept.equals(candidates)
    assert decisions.is_empty() and dict(decisions.schema) == DECISION_COLUMNS
