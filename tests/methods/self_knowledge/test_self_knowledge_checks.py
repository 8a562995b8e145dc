"""The checks of what self-knowledge records."""

from __future__ import annotations

import polars as pl
import pytest

from selfimprove_dagster.methods.self_knowledge.checks import _probabilities_sum
from selfimprove_dagster.methods.self_knowledge.tables import SK_DISCRIMINATION_SCORE
from selfimprove_dagster.quality.subject import Subject


class _Rows(Subject):
    """A partition of the choices that has these rows."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self.schema = SK_DISCRIMINATION_SCORE
        self._rows = rows

    def columns(self, *names: str) -> pl.DataFrame:
        return self._rows.select(names)


@pytest.mark.parametrize(
    ("problem", "probabilities", "totals"),
    [
        (None, [[0.5, 0.5], [0.25, 0.75]], [1.0, 1.0]),
        ("refused: by the filter", [[0.5, 0.5], []], []),  # an order that was not answered has none
        (None, [[0.5, 0.5], []], [1.0, 0.0]),
    ],
)
def test_the_probabilities_of_a_choice_that_failed_are_not_summed(
    problem: str | None, probabilities: list[list[float]], totals: list[float]
) -> None:
    rows = pl.DataFrame(
        {"id": ["dsc:1"], "by": ["probability"], "probabilities": [probabilities], "problem": [problem]},
        schema={
            "id": pl.String,
            "by": pl.String,
            "probabilities": pl.List(pl.List(pl.Float64)),
            "problem": pl.String,
        },
    )
    evidence = _probabilities_sum(_Rows(rows))
    assert evidence.frame["total"].to_list() == totals
