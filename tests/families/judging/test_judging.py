"""Labels from comparisons, and the measures that say when a judge cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.families.judging.integrity import (
    CALIBRATION,
    LENGTH_BIAS,
    MEASURES,
    ORDER_FLIP_AGREEMENT,
    POSITION_BALANCE,
    SELF_AGREEMENT,
    UNDECIDED_SHARE,
    JudgeBounds,
    Measure,
    measure_judge,
)
from selfimprove_dagster.families.judging.preferences import (
    aggregate,
    clamped,
    draw_principles,
    expected_rating,
    rescaled,
)

PRINCIPLES = [f"principle {number}" for number in range(1, 17)]
BOUNDS = JudgeBounds(0.6, 0.15, 0.6, 0.25, 0.6, 0.25)
"""Those that an experiment has by default."""


# ---- principles ----------------------------------------------------------------------------------------


def test_a_principle_is_drawn_again_only_after_all_others() -> None:
    drawn = draw_principles(PRINCIPLES, 40, seed=3)
    assert sorted(drawn[:16]) == sorted(drawn[16:32]) == sorted(PRINCIPLES)
    assert drawn[:16] != drawn[16:32]
    assert len(set(drawn[32:])) == 8


@given(st.integers(0, 100), st.integers(0, 2**40), st.permutations(PRINCIPLES))
def test_what_is_drawn_does_not_depend_on_the_order_of_the_file(
    count: int, seed: int, shuffled: list[str]
) -> None:
    assert draw_principles(shuffled, count, seed) == draw_principles(PRINCIPLES, count, seed)


def test_nothing_can_be_drawn_from_nothing() -> None:
    with pytest.raises(ValueError, match="no principle"):
        draw_principles([], 1, 0)


# ---- labels --------------------------------------------------------------------------------------------


def comparison(
    number: int, order: int, probability_a: float, principle: str = "p", repeat: bool = False
) -> dict[str, object]:
    return {
        "id": f"cmp:{number}/{order}/{principle}/{repeat}",
        "prompt_id": f"prompt:{number}",
        "response_ids": [f"gen:{number}a", f"gen:{number}b"],
        "principle": principle,
        "order": order,
        "repeat": repeat,
        "question": f"{number} {order} {principle}",
        "probability_a": probability_a,
    }


def test_a_label_is_the_mean_over_orders_then_over_principles() -> None:
    asked = [
        comparison(1, 0, 0.9),
        comparison(1, 1, 0.3),
        comparison(1, 0, 0.5, "q"),
        comparison(1, 0, 0.0, repeat=True),
    ]
    (row,) = aggregate(pl.DataFrame(asked)).to_dicts()
    assert row["probability"] == pytest.approx((0.8 + 0.5) / 2)  # the mean of all three would be 0.7
    assert (row["as_first"], row["as_second"]) == (pytest.approx(0.7), pytest.approx(0.7))
    assert row["principles"] == ["p", "q"]
    assert row["comparison_ids"] == ["cmp:1/0/p/False", "cmp:1/1/p/False", "cmp:1/0/q/False"]


def test_a_pair_with_a_comparison_that_failed_has_no_label_but_the_problem() -> None:
    asked = [
        {**comparison(1, 0, 0.9), "problem": None},
        {**comparison(1, 1, 0.3), "probability_a": None, "problem": "too_long: 1,200 tokens"},
        {**comparison(2, 0, 0.9), "problem": None},
        {**comparison(2, 1, 0.1, repeat=True), "probability_a": None, "problem": "too_long: again"},
    ]
    failed, other = aggregate(pl.DataFrame(asked)).to_dicts()
    assert failed["problem"] == "too_long: 1,200 tokens"
    assert [failed[name] for name in ("probability", "as_first", "as_second")] == [None] * 3
    assert (other["probability"], other["problem"]) == (pytest.approx(0.9), None)


def test_with_one_order_that_order_alone_is_the_label() -> None:
    (row,) = aggregate(pl.DataFrame([comparison(1, 1, 0.3)])).to_dicts()
    assert row["probability"] == row["as_second"] == pytest.approx(0.7)
    assert row["as_first"] is None


ASKED = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 1), st.sampled_from("pq"), st.booleans(), st.floats(0, 1, width=32)
    ),
    min_size=1,
    max_size=24,
    unique_by=lambda one: one[:4],
)


@given(ASKED)
def test_naming_the_second_response_first_turns_the_label_round(
    asked: list[tuple[int, int, str, bool, float]],
) -> None:
    rows = pl.DataFrame(
        [comparison(number, order, p, principle, again) for number, order, principle, again, p in asked]
    )
    turned = rows.with_columns(pl.col("response_ids").list.reverse(), order=1 - pl.col("order"))
    labels, other = aggregate(rows), aggregate(turned)
    expected = labels.select(
        pl.col("response_ids").list.reverse(),
        probability=1 - pl.col("probability"),
        as_first=1 - pl.col("as_second"),
        as_second=1 - pl.col("as_first"),
    )
    assert other["response_ids"].to_list() == expected["response_ids"].to_list()
    for column in ("probability", "as_first", "as_second"):
        assert other[column].to_list() == pytest.approx(expected[column].to_list(), abs=1e-12)


@given(ASKED)
def test_an_order_may_be_swapped_when_its_answer_is(asked: list[tuple[int, int, str, bool, float]]) -> None:
    rows = pl.DataFrame(
        [comparison(number, order, p, principle, again) for number, order, principle, again, p in asked]
    )
    swapped = rows.with_columns(order=1 - pl.col("order"), probability_a=1 - pl.col("probability_a"))
    found, expected = aggregate(swapped)["probability"], aggregate(rows)["probability"]
    assert found.to_list() == pytest.approx(expected.to_list())
    assert found.is_between(0, 1).all()


@given(st.floats(0, 1), st.floats(0, 0.5))
def test_clamping_keeps_the_side_and_stays_within(probability: float, low: float) -> None:
    kept = clamped(probability, low)
    assert low <= kept <= 1 - low
    assert kept == clamped(kept, low)
    assert (kept - 0.5) * (probability - 0.5) >= 0


def test_a_rating_is_its_mean_and_a_reward_from_minus_one_to_one() -> None:
    assert expected_rating([0.1] * 10) == pytest.approx(5.5)
    assert expected_rating([0, 0, 1, 0, 0, 0, 0, 0, 0, 3]) == pytest.approx(8.25)
    assert [rescaled(rating) for rating in (1, 5.5, 10)] == [-1, 0, 1]
    for wrong in ([0.0] * 10, [1.0] * 9):
        with pytest.raises(ValueError, match="ten probabilities"):
            expected_rating(wrong)


# ---- planted judges ------------------------------------------------------------------------------------

Judge = Callable[[Random, str, str, bool], float]
"""How probable (A) is, of two texts, where the better one is (A) or is not."""


def perfect(random: Random, a: str, b: str, a_is_better: bool) -> float:
    return random.uniform(0.8, 0.95) if a_is_better else random.uniform(0.05, 0.2)


def always_a(random: Random, a: str, b: str, a_is_better: bool) -> float:
    return random.uniform(0.9, 0.99)


def longer_wins(random: Random, a: str, b: str, a_is_better: bool) -> float:
    return 0.5 if len(a) == len(b) else perfect(random, a, b, len(a) > len(b))


def at_random(random: Random, a: str, b: str, a_is_better: bool) -> float:
    return random.random()


def mildly_for_a(random: Random, a: str, b: str, a_is_better: bool) -> float:
    return perfect(random, a, b, a_is_better or random.random() < 0.15)


def says_nothing(random: Random, a: str, b: str, a_is_better: bool) -> float:
    return 0.5 + (perfect(random, a, b, a_is_better) - 0.5) / 10


def judged(
    judge: Judge,
    pairs: int = 400,
    orders: tuple[int, ...] = (0, 1),
    repeated: float = 0.5,
    principles: tuple[str, ...] = ("p",),
    clamp: float = 0.0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the judge says of so many pairs, and the preferences that follow."""
    random, rows, texts = Random(7), [], []
    for number in range(pairs):
        first_is_better = random.random() < 0.5
        first, second = ("x" * random.randint(5, 60) for _ in range(2))
        texts.append({"prompt_id": f"prompt:{number}", "first": first, "second": second})
        again = [True] if number < repeated * pairs else []
        for repeat in (False, *again):
            for principle in ("again",) if repeat else principles:
                for order in orders:
                    a, b = (first, second) if order == 0 else (second, first)
                    said = judge(random, a, b, first_is_better == (order == 0))
                    rows.append(comparison(number, order, said, principle, repeat))
    comparisons = pl.DataFrame(rows)
    return comparisons, aggregate(comparisons, clamp).join(pl.DataFrame(texts), on="prompt_id")


def named(measures: list[Measure]) -> set[str]:
    """The measures that say the judge cannot be trusted."""
    return {measure.name for measure in measures if measure.passed is False}


PLANTED: list[tuple[Judge, set[str]]] = [
    (perfect, set()),
    (mildly_for_a, set()),
    (always_a, {ORDER_FLIP_AGREEMENT, POSITION_BALANCE, UNDECIDED_SHARE}),
    (longer_wins, {LENGTH_BIAS}),
    (at_random, {ORDER_FLIP_AGREEMENT, SELF_AGREEMENT}),
    (says_nothing, {UNDECIDED_SHARE}),
]


@pytest.mark.parametrize(("judge", "expected"), PLANTED, ids=[judge.__name__ for judge, _ in PLANTED])
def test_each_planted_judge_is_named_by_its_own_measures(judge: Judge, expected: set[str]) -> None:
    measures = measure_judge(*judged(judge), BOUNDS)
    assert [measure.name for measure in measures] == list(MEASURES)
    assert named(measures) == expected


def of(measures: list[Measure], name: str) -> Measure:
    return next(measure for measure in measures if measure.name == name)


@pytest.mark.parametrize(
    ("judge", "name", "words"),
    [
        (always_a, POSITION_BALANCE, "always says (A)"),
        (always_a, ORDER_FLIP_AGREEMENT, "follows the position"),
        (longer_wins, LENGTH_BIAS, "always prefers the longer response"),
        (at_random, ORDER_FLIP_AGREEMENT, "answers at random"),
        (at_random, SELF_AGREEMENT, "answers at random"),
        (says_nothing, UNDECIDED_SHARE, "prefers neither"),
    ],
)
def test_a_failed_measure_names_the_bias(judge: Judge, name: str, words: str) -> None:
    measure = of(measure_judge(*judged(judge), BOUNDS), name)
    assert words in measure.statement
    assert words not in of(measure_judge(*judged(perfect), BOUNDS), name).statement


def test_a_judge_that_always_says_a_is_named_when_asked_in_one_order_too() -> None:
    """A swap test has nothing to compare there; the balance of positions has."""
    measures = measure_judge(*judged(always_a, orders=(0,)), BOUNDS)
    assert named(measures) == {POSITION_BALANCE}
    swap = of(measures, ORDER_FLIP_AGREEMENT)
    assert (swap.value, swap.passed, swap.pairs) == (None, None, 0)
    assert "no pair was asked about in both orders" in swap.statement


def test_always_b_and_shorter_wins_are_named_by_their_own_side() -> None:
    def always_b(random: Random, a: str, b: str, a_is_better: bool) -> float:
        return 1 - always_a(random, a, b, a_is_better)

    def shorter_wins(random: Random, a: str, b: str, a_is_better: bool) -> float:
        return 1 - longer_wins(random, a, b, a_is_better)

    assert "always says (B)" in of(measure_judge(*judged(always_b), BOUNDS), POSITION_BALANCE).statement
    assert "prefers the shorter" in of(measure_judge(*judged(shorter_wins), BOUNDS), LENGTH_BIAS).statement


def test_the_mild_bias_shows_in_the_number_though_it_is_allowed() -> None:
    balance = of(measure_judge(*judged(mildly_for_a), BOUNDS), POSITION_BALANCE)
    assert balance.value is not None
    assert 0.52 < balance.value < 0.65
    strict = JudgeBounds(0.6, 0.02, 0.6, 0.25, 0.6, 0.25)
    assert named(measure_judge(*judged(mildly_for_a), strict)) == {POSITION_BALANCE}
    assert "leans to (A)" in of(measure_judge(*judged(mildly_for_a), strict), POSITION_BALANCE).statement


@pytest.mark.parametrize("judge", [always_a, at_random, longer_wins], ids=lambda judge: judge.__name__)
def test_more_principles_hide_no_bias(judge: Judge) -> None:
    measures = measure_judge(*judged(judge, principles=("p", "q", "r")), BOUNDS)
    assert named(measures) == dict(PLANTED)[judge]


def test_the_same_words_asked_again_tell_nothing_of_a_deterministic_judge() -> None:
    comparisons, preferences = judged(perfect, repeated=0)
    again = comparisons.with_columns(repeat=pl.lit(True))
    measures = measure_judge(pl.concat([comparisons, again]), preferences, BOUNDS)
    assert of(measures, SELF_AGREEMENT).passed is None
    assert "in other words" in of(measures, SELF_AGREEMENT).statement


def test_of_a_server_that_answers_the_same_words_otherwise_the_repeats_count() -> None:
    comparisons, preferences = judged(perfect, repeated=0)
    turned = comparisons.with_columns(repeat=pl.lit(True), probability_a=1 - pl.col("probability_a"))
    measures = measure_judge(pl.concat([comparisons, turned]), preferences, BOUNDS)
    assert of(measures, SELF_AGREEMENT).value == 0
    assert "contradicts itself" in of(measures, SELF_AGREEMENT).statement


def test_where_nothing_is_preferred_nothing_but_that_is_measured() -> None:
    measures = measure_judge(*judged(lambda *_: 0.5), BOUNDS)
    assert named(measures) == {UNDECIDED_SHARE}
    assert [measure.name for measure in measures if measure.passed is None] == [
        *(ORDER_FLIP_AGREEMENT, POSITION_BALANCE, SELF_AGREEMENT, LENGTH_BIAS, CALIBRATION)
    ]


def test_no_comparison_at_all_is_measured_without_an_error() -> None:
    comparisons, preferences = judged(perfect, pairs=1)
    measures = measure_judge(comparisons.clear(), preferences.clear(), BOUNDS)
    assert {measure.passed for measure in measures} == {None}


# ---- calibration ---------------------------------------------------------------------------------------


def reviewed(preferences: pl.DataFrame, right: float) -> pl.DataFrame:
    """Reviewers who agree with so large a share of the labels."""
    random = Random(1)
    judged_second = (preferences["probability"] < 0.5).to_list()
    labels = [int(second == (random.random() < right)) for second in judged_second]
    return preferences.select("prompt_id", "response_ids").with_columns(
        pl.Series("preferred", labels, dtype=pl.Int64)
    )


def test_a_judge_as_sure_as_it_is_right_is_calibrated() -> None:
    comparisons, preferences = judged(perfect)
    measure = of(measure_judge(comparisons, preferences, BOUNDS, reviewed(preferences, 0.87)), CALIBRATION)
    assert measure.passed
    assert measure.pairs == 400
    assert measure.value is not None and measure.low is not None and measure.high is not None
    assert measure.low <= measure.value <= measure.high < 0.1
    assert "accuracy 8" in measure.statement


def test_a_judge_surer_than_it_is_right_is_named() -> None:
    comparisons, preferences = judged(perfect)
    measure = of(measure_judge(comparisons, preferences, BOUNDS, reviewed(preferences, 0.5)), CALIBRATION)
    assert measure.passed is False
    assert measure.value == pytest.approx(0.37, abs=0.05)
    assert "too sure of itself" in measure.statement


def test_reviewers_who_prefer_neither_do_not_count() -> None:
    comparisons, preferences = judged(perfect)
    nobody = reviewed(preferences, 0.9).with_columns(preferred=pl.lit(None, dtype=pl.Int64))
    assert of(measure_judge(comparisons, preferences, BOUNDS, nobody), CALIBRATION).passed is None


def sure(random: Random, a: str, b: str, a_is_better: bool) -> float:
    return random.uniform(0.85, 0.97) if a_is_better else random.uniform(0.03, 0.15)


@pytest.mark.parametrize(("right", "passed"), [(0.9, True), (1.0, True), (0.6, False)])
def test_a_clamp_makes_no_judge_unsure_of_itself(right: float, passed: bool) -> None:
    """The labels lie between 0.4 and 0.6; how sure the judge is, is what it said."""
    comparisons, _ = judged(sure, pairs=200)
    _, preferences = judged(sure, pairs=200, clamp=0.4)
    assert preferences["probability"].is_between(0.4, 0.6).all()
    reviews = reviewed(preferences, right)
    measures = measure_judge(comparisons, preferences, BOUNDS, reviews, clamp=0.4)
    calibration = of(measures, CALIBRATION)
    assert calibration.passed is passed
    assert named(measures) == (set() if passed else {CALIBRATION})
    assert calibration.value == pytest.approx(abs(right - 0.91), abs=0.06)
    assert ("too sure of itself" in calibration.statement) is not passed


@given(ASKED, st.floats(0, 0.5))
def test_each_comparison_is_clamped_before_the_mean(
    asked: list[tuple[int, int, str, bool, float]], low: float
) -> None:
    rows = pl.DataFrame(
        [comparison(number, order, p, principle, again) for number, order, principle, again, p in asked]
    )
    before = rows.with_columns(
        probability_a=pl.col("probability_a").map_elements(
            lambda one: clamped(one, low), return_dtype=pl.Float64
        )
    )
    assert aggregate(rows, low).equals(aggregate(before))
    assert aggregate(rows, 0.0).equals(aggregate(rows))


@given(st.integers(0, 60), st.sampled_from([perfect, always_a, longer_wins, at_random, says_nothing]))
def test_every_value_lies_in_its_interval(pairs: int, judge: Judge) -> None:
    comparisons, preferences = judged(judge, pairs=max(pairs, 1))
    for measure in measure_judge(comparisons, preferences, BOUNDS, reviewed(preferences, 0.7)):
        if measure.value is not None and measure.low is not None and measure.high is not None:
            assert 0 <= measure.low <= measure.value + 1e-12
            assert measure.value - 1e-12 <= measure.high <= 1
            assert measure.allowed
