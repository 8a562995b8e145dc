"""From what a judge said of two responses to a label (2212.08073, section 4.1; 2309.00267, section 2).

A pair of responses is asked about once for each principle and order. Order 0 shows its first response as
(A), order 1 its second; the label is the probability that the first is the better, averaged over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from selfimprove_dagster.lots import seed_of

PAIR = ["prompt_id", "response_ids"]
"""What tells one pair from another."""


MEAN_RATING, HALF_RANGE = 5.5, 4.5


def draw_principles(names: Sequence[str], count: int, seed: int) -> list[str]:
    """So many of the names, none twice before all were drawn. What is drawn follows from the seed and the
    names, not from their order. Raises ValueError where there is none to draw from.
    """
    if not names:
        raise ValueError("there is no principle to draw from")
    drawn: list[str] = []
    while len(drawn) < count:
        turn = len(drawn) // len(names)
        drawn += sorted(names, key=lambda name: seed_of(seed, turn, name))
    return drawn[:count]


def clamped(probability: float, low: float) -> float:
    """The probability, kept from `low` to 1 − `low`: after a chain of thought a judge is too sure of itself
    (2212.08073, section 4.1, where `low` is 0.4).
    """
    return min(max(probability, low), 1 - low)


def aggregate(comparisons: pl.DataFrame, clamp: float = 0.0) -> pl.DataFrame:
    """One row a pair, in the order in which pairs come first, from rows of comparisons (`id`, `prompt_id`,
    `response_ids`, `principle`, `order`, `repeat`, `probability_a`, and maybe `problem`); repeats are left out. Each
    probability is `clamped` from `clamp` on; 0 leaves it as it is.

    Columns: `prompt_id`, `response_ids`, `probability` that the first response is the better, as the mean
    over the orders of each principle, then over principles; `as_first` and `as_second` when it was shown
    as (A) and as (B), null where it never was; `principles` and `comparison_ids` as they were asked. The numbers of a
    pair are null if one of its comparisons could not be made (`probability_a` is null), whose `problem` it has.
    """
    if "problem" not in comparisons.columns:
        comparisons = comparisons.with_columns(problem=pl.lit(None, pl.String))
    shown_first, said = pl.col("order") == 0, pl.col("probability_a").clip(clamp, 1 - clamp)
    asked = comparisons.filter(~pl.col("repeat")).with_columns(
        better=pl.when(shown_first).then(said).otherwise(1 - said)
    )
    by_principle = (
        asked.group_by(*PAIR, "principle", maintain_order=True)
        .agg(
            probability=pl.col("better").mean(),
            as_first=pl.col("better").filter(shown_first).mean(),
            as_second=pl.col("better").filter(~shown_first).mean(),
        )
        .group_by(PAIR, maintain_order=True)
        .agg(pl.col("probability", "as_first", "as_second").mean(), principles=pl.col("principle"))
    )
    whole = asked.group_by(PAIR, maintain_order=True).agg(
        pl.col("problem").drop_nulls().first(),
        comparison_ids=pl.col("id"),
        is_whole=pl.col("probability_a").is_not_null().all(),
    )
    found = by_principle.join(whole, on=PAIR, how="left", maintain_order="left")
    numbers = ("probability", "as_first", "as_second")
    return found.with_columns(pl.when("is_whole").then(pl.col(name)).alias(name) for name in numbers).drop(
        "is_whole"
    )


def margin_of(probability: pl.Expr) -> pl.Expr:
    """|2p − 1|: 0 where a label says nothing, 1 where it is sure."""
    return (2 * probability - 1).abs()


def expected_rating(probabilities: Sequence[float]) -> float:
    """The mean of the ratings 1 to 10, each as probable as its number in `probabilities` says; they need not
    sum to 1. Raises ValueError where no rating has any probability.
    """
    if len(probabilities) != 10 or not sum(probabilities) > 0:
        raise ValueError(f"ten probabilities of which one is positive are needed, not {list(probabilities)}")
    weighted = sum(rating * probability for rating, probability in enumerate(probabilities, start=1))
    return weighted / sum(probabilities)


def rescaled(rating: float) -> float:
    """A rating of 1 to 10 as a reward from −1 to 1."""
    return (rating - MEAN_RATING) / HALF_RANGE
