"""Words for what a judge says. (A) is the first response of a pair and (B) the second, whichever was shown first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfimprove_dagster.words import drawn, quoted

if TYPE_CHECKING:
    from selfimprove_dagster.table import Row

_LETTERS = ("(A)", "(B)")


def response(row: Row) -> str:
    """A response of a pair and how it was drawn."""
    return f"response {_LETTERS[row['sample_index']]} of the pair, {drawn(row)}"


def comparison(row: Row) -> str:
    """The judgement of one pair in one order."""
    if row["probability_a"] is None:
        return f"not judged: {row['problem']}"
    preferred_a = row["probability_a"] >= 0.5
    # In order 1 the second response of the pair is shown as (A).
    of_pair = _LETTERS[(row["order"] == 1) == preferred_a]
    sure = max(row["probability_a"], 1 - row["probability_a"])
    shown = "first" if preferred_a else "second"
    asked = "asked again at another seed: " if row["repeat"] else ""
    thought = f", after the thought {quoted(row['reasoning'])}" if row["reasoning"] else ""
    return f"{asked}{of_pair} by {sure:.2f}, shown {shown}, {_principles([row['principle']])}{thought}"


def preference(row: Row) -> str:
    """The preferred response, how sure the judge is, and its probability in each order.

    For example `(B) by 0.71: 0.64 as second, 0.78 as first, principle secrets`.
    """
    if row["probability"] is None:
        return f"not judged: {row['problem']}"
    second = row["probability"] < 0.5
    own = _of_preferred(row["probability"], second)
    # `as_first` is of the first response as (A); then the second is (B).
    places = ("second", "first") if second else ("first", "second")
    shown = zip(places, (row["as_first"], row["as_second"]), strict=True)
    orders = [f"{_of_preferred(value, second):.2f} as {place}" for place, value in shown if value is not None]
    return f"{_LETTERS[second]} by {own:.2f}: {', '.join([*orders, _principles(row['principles'])])}"


def check(row: Row) -> str:
    """A measure of the judge and whether it passed."""
    outcome = "passed" if row["passed"] else "failed" if row["passed"] is False else "noted"
    return f"{row['measure']} {outcome}: {row['statement']}"


def review_item(row: Row) -> str:
    """A preference that people are asked about, and why."""
    return f"uncertain by {row['uncertainty']:.2f}: {row['reason']}"


def _of_preferred(probability: float, second: bool) -> float:
    return 1 - probability if second else probability


def _principles(names: Sequence[str]) -> str:
    return f"principle{'' if len(names) == 1 else 's'} {', '.join(names)}"
