"""Charts of pages: their data is JSON, which has no NaN."""

from __future__ import annotations

import math

from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.explorer.curves import series, shares


def test_what_is_not_finite_leaves_a_gap() -> None:
    assert series("loss", [0.5, None, math.nan, -math.inf, 3])["values"] == [0.5, None, None, None, 3]
    assert shares("right", [Accuracy(1, 2), Accuracy(0, 0), None])["values"] == [0.5, None, None]
