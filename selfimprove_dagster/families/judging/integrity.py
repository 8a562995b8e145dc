"""What tells whether a judge can be trusted: measures of its comparisons, each with bounds and words.

order_flip_agreement   share of pairs whose preferred response is the same in both orders
position_balance       share of comparisons in which (A) is preferred
self_agreement         share of pairs whose preferred response is the same when asked about again in one order
length_bias            share of pairs of different length whose longer response is preferred
undecided_share        share of labels that say nothing (0.45 to 0.55)
calibration            expected calibration error against the labels of reviewers (Guo et al., 1706.04599)

Each comes with its 95% interval. A probability of exactly one half prefers nothing. Calibration is measured on
the judge's own probabilities, before labels are clamped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.families.judging.preferences import PAIR, aggregate, margin_of

ORDER_FLIP_AGREEMENT = "order_flip_agreement"


POSITION_BALANCE = "position_balance"


SELF_AGREEMENT = "self_agreement"


LENGTH_BIAS = "length_bias"


UNDECIDED_SHARE = "undecided_share"


CALIBRATION = "calibration"


MEASURES = (
    ORDER_FLIP_AGREEMENT,
    POSITION_BALANCE,
    SELF_AGREEMENT,
    LENGTH_BIAS,
    UNDECIDED_SHARE,
    CALIBRATION,
)
"""The names of all measures, in the order in which they are made."""


UNDECIDED = (0.45, 0.55)


CONFIDENCE_BINS = 5
"""From 0.5 to 1, each 0.1 wide."""


_ALWAYS = 0.95


_RESAMPLES = 1_000


_ROUNDING = 1e-9


@dataclass(frozen=True)
class JudgeBounds:
    """Within what a judge is trusted, as in the section `judge_checks` of an experiment."""

    least_order_agreement: float
    most_position_bias: float
    least_self_agreement: float
    most_length_bias: float
    most_undecided: float
    most_calibration_error: float


@dataclass(frozen=True)
class Measure:
    """A number about a judge, with its 95% interval and its bounds.

    `value`, `low`, `high` and `passed` are None where nothing could be measured; `pairs` says on how many
    pairs, comparisons or labels the number rests. `statement` says it in words, and which bias it shows.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    pairs: int
    least: float | None
    most: float | None
    statement: str
    passed: bool | None

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("at least", self.least), ("at most", self.most))
            if bound is not None
        ]
        return " and ".join(bounds)


def measure_judge(
    comparisons: pl.DataFrame,
    preferences: pl.DataFrame,
    bounds: JudgeBounds,
    reviews: pl.DataFrame | None = None,
    minimum_margin: float = 0.0,
    clamp: float = 0.0,
) -> list[Measure]:
    """All measures of `MEASURES`, in that order.

    `comparisons` has what `aggregate` asks for and `question`, repeats among them; `preferences` has
    `prompt_id`, `response_ids`, `first`, `second` (the texts) and `probability`, one row a pair; `reviews`
    has `prompt_id`, `response_ids` and `preferred` (0 for the first response, 1 for the second, null for
    neither or both), one row a pair and reviewer. `clamp` is that by which the preferences were made of the
    comparisons. In both orders the judge must agree on the pairs that are
    trained on, those whose label has a margin |2p − 1| of `minimum_margin`: where two responses are equally
    good, it is right to be of two minds.
    """
    return [
        _order_flip_agreement(comparisons, bounds.least_order_agreement, minimum_margin, clamp),
        _position_balance(comparisons, bounds.most_position_bias),
        _self_agreement(comparisons, bounds.least_self_agreement, clamp),
        _length_bias(preferences, bounds.most_length_bias),
        _undecided_share(preferences, bounds.most_undecided),
        _calibration(
            aggregate(comparisons).join(preferences, on=PAIR, how="semi"),
            reviews,
            bounds.most_calibration_error,
        ),
    ]


def _order_flip_agreement(
    comparisons: pl.DataFrame, least: float, minimum_margin: float, clamp: float
) -> Measure:
    trained_on = aggregate(comparisons, clamp).filter(margin_of(pl.col("probability")) >= minimum_margin)
    in_each = trained_on.select(_preferred("as_first"), _preferred("as_second")).drop_nulls()
    return _agreement(
        ORDER_FLIP_AGREEMENT,
        in_each,
        least,
        said="keep their preferred response when the order is swapped",
        unmeasured="no pair was asked about in both orders with a preference that would be trained on",
        reversed_words="what is preferred follows the position, not the response",
    )


def _self_agreement(comparisons: pl.DataFrame, least: float, clamp: float) -> Measure:
    """Each pair counts once an order, so that a judge that follows the position agrees with itself.

    Pairs of which only questions in the very same words were asked again, and answered with the very same
    probabilities, are left out: a judge of one forward pass cannot but repeat itself there.
    """
    asked = [*PAIR, "question", "probability_a"]
    repeats, first_asked = comparisons.filter("repeat"), comparisons.filter(~pl.col("repeat"))
    otherwise = repeats.join(first_asked, on=asked, how="anti").select(PAIR).unique()
    again = aggregate(repeats.with_columns(repeat=pl.lit(False)), clamp)
    both = (
        aggregate(first_asked, clamp)
        .join(again, on=PAIR, suffix="_again")
        .join(otherwise, on=PAIR, how="semi")
    )
    in_each_order = pl.concat(
        both.select(before=_preferred(order), again=_preferred(f"{order}_again"))
        for order in ("as_first", "as_second")
    ).drop_nulls()
    return _agreement(
        SELF_AGREEMENT,
        in_each_order,
        least,
        said="keep their preferred response when they are asked about again in the same order",
        unmeasured="no pair was asked about again in other words, that is with other principles or reasoning"
        if repeats.height
        else "no pair was asked about again",
        reversed_words="it contradicts itself more often than chance would",
    )


def _agreement(
    name: str, preferred: pl.DataFrame, least: float, *, said: str, unmeasured: str, reversed_words: str
) -> Measure:
    """Of two columns of −1, 0, 1: how often they say the same. Rows without any preference say nothing."""
    one, other = preferred.columns
    decided = preferred.filter((pl.col(one) != 0) | (pl.col(other) != 0))
    found = Accuracy(decided.filter(pl.col(one) == pl.col(other)).height, decided.height)
    low, high = found.interval
    if high < 0.5:
        words = reversed_words
    elif low <= 0.5:
        words = "no better than chance, as of a judge that answers at random"
    else:
        words = "it often changes its mind"
    return _share_measure(name, found, f"of {found.total:,} pairs {said}", unmeasured, words, least=least)


def _position_balance(comparisons: pl.DataFrame, most_off: float) -> Measure:
    preferred = comparisons.filter(~pl.col("repeat")).select(_preferred("probability_a")).to_series()
    found = Accuracy(int((preferred == 1).sum()), int((preferred != 0).sum()))
    option = "(A)" if found.value > 0.5 else "(B)"
    return _share_measure(
        POSITION_BALANCE,
        found,
        f"of {found.total:,} comparisons prefer (A)",
        "no comparison prefers anything",
        f"position bias, the judge {_always(found.value)} {option}",
        least=0.5 - most_off,
        most=0.5 + most_off,
    )


def _length_bias(preferences: pl.DataFrame, most_off: float) -> Measure:
    longer = pl.col("first").str.len_chars().cast(pl.Int64) - pl.col("second").str.len_chars().cast(pl.Int64)
    rows = preferences.select(_preferred("probability"), longer=longer.sign())
    decided = rows.filter((pl.col("longer") != 0) & (pl.col("probability") != 0))
    found = Accuracy(decided.filter(pl.col("longer") == pl.col("probability")).height, decided.height)
    sort = "longer" if found.value > 0.5 else "shorter"
    often = "always" if _is_always(found.value) else "too often"
    return _share_measure(
        LENGTH_BIAS,
        found,
        f"of {found.total:,} pairs of different length prefer the longer response",
        "no pair of different length has a preference",
        f"length bias, the judge {often} prefers the {sort} response",
        least=0.5 - most_off,
        most=0.5 + most_off,
    )


def _undecided_share(preferences: pl.DataFrame, most: float) -> Measure:
    low, high = UNDECIDED
    undecided = preferences["probability"].is_between(low - _ROUNDING, high + _ROUNDING)
    found = Accuracy(int(undecided.sum()), undecided.len())
    return _share_measure(
        UNDECIDED_SHARE,
        found,
        f"of {found.total:,} labels lie between {low:g} and {high:g}",
        "there are no labels",
        "the judge prefers neither response",
        most=most,
    )


def _calibration(said: pl.DataFrame, reviews: pl.DataFrame | None, most: float) -> Measure:
    """How far off the probabilities that the judge gives, `said` of each pair, are from what reviewers prefer."""
    labelled = (
        pl.DataFrame(schema={"probability": pl.Float64, "preferred": pl.Int64})
        if reviews is None
        else reviews.drop_nulls("preferred").join(said.select(*PAIR, "probability"), on=PAIR)
    )
    if labelled.is_empty():
        words = "not measured: no reviewer preferred a response of these pairs"
        return Measure(CALIBRATION, None, None, None, 0, None, most, words, None)
    probability = labelled["probability"].to_numpy()
    right = (probability < 0.5) == (labelled["preferred"].to_numpy() == 1)
    right = np.where(probability == 0.5, 0.5, right)
    confidence = np.maximum(probability, 1 - probability)
    error = _calibration_error(confidence, right)
    draw = np.random.default_rng(0)
    resampled = [
        _calibration_error(confidence[rows], right[rows])
        for rows in draw.integers(0, len(right), (_RESAMPLES, len(right)))
    ]
    # Chance spreads what a bin holds, so resampled errors are larger than the one they are to surround.
    low, high = min(error, float(np.quantile(resampled, 0.025))), float(np.quantile(resampled, 0.975))
    passed = error <= most + _ROUNDING
    too = "too sure of itself" if confidence.mean() > right.mean() else "too unsure of itself"
    accuracy = Accuracy(round(float(right.sum())), len(right))
    statement = (
        f"expected calibration error {error:.3f} [{low:.3f}, {high:.3f}] and accuracy {accuracy} against "
        f"{len(right):,} labels of reviewers" + ("" if passed else f": the judge is {too}")
    )
    return Measure(CALIBRATION, error, low, max(high, error), len(right), None, most, statement, passed)


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Σ over bins of (share of the labels) · |accuracy − mean confidence|."""
    bins = np.minimum((2 * CONFIDENCE_BINS * (confidence - 0.5)).astype(int), CONFIDENCE_BINS - 1)
    off = np.bincount(bins, weights=right - confidence, minlength=CONFIDENCE_BINS)
    return float(np.abs(off).sum() / len(right))


def _preferred(probability: str) -> pl.Expr:
    """1 where more probable than not, −1 where less, 0 where neither."""
    off = pl.col(probability) - 0.5
    return pl.when(off.abs() <= _ROUNDING).then(0).otherwise(off.sign().cast(pl.Int64)).alias(probability)


def _is_always(share: float) -> bool:
    return share >= _ALWAYS or share <= 1 - _ALWAYS


def _always(share: float) -> str:
    return "always says" if _is_always(share) else "leans to"


def _share_measure(
    name: str,
    found: Accuracy,
    said: str,
    unmeasured: str,
    words: str,
    *,
    least: float | None = None,
    most: float | None = None,
) -> Measure:
    """A share within bounds; `words` name the bias of one that is not."""
    if not found.total:
        return Measure(name, None, None, None, 0, least, most, f"not measured: {unmeasured}", None)
    passed = (least is None or found.value >= least - _ROUNDING) and (
        most is None or found.value <= most + _ROUNDING
    )
    statement = f"{found} {said}" + ("" if passed else f": {words}")
    return Measure(name, found.value, *found.interval, found.total, least, most, statement, passed)
