"""Generation against discrimination: orders, choices, gaps, and the gate."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.evaluation.measurement import PairedComparison, PairedShares
from selfimprove_dagster.families.judging.gate import MeasuredGap, decide
from selfimprove_dagster.methods.self_knowledge.self_knowledge import (
    draw_orders,
    measure_gap,
    pick_likeliest,
    pick_named,
    read_choice,
)

SHARES = st.floats(0, 1)


@given(st.integers(2, 8), st.integers(1, 20), st.integers(0, 2**31))
def test_each_candidate_stands_in_each_place_as_often_as_can_be(count: int, shuffles: int, seed: int) -> None:
    orders = draw_orders(count, shuffles, seed)
    assert len(orders) == shuffles and all(sorted(order) == list(range(count)) for order in orders)
    whole = orders[: shuffles // count * count]
    for place in range(count):
        shown = [order[place] for order in whole]
        assert {shown.count(candidate) for candidate in range(count)} == {shuffles // count}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (" (B)", 1),
        (" (A) is kinder than (B).", 0),
        ("B", 1),
        ("B.", 1),
        ("The answer is (B).", 1),
        ("I would say (A)", 0),
        ("A better one is (B)", 1),
        ("Neither (A) nor (B)", None),
        ("(C)", None),
        ("Both", None),
        ("", None),
        ("A", 0),
        ("**B**", 1),
        ("**(A)**", 0),
        ("**A.** Greta sets the table.", 0),
        ("The answer is: **(B)** It is kinder.", 1),
        ("The right answer is (A).", 0),
        ("(B) Greta does.\n\nIt is kinder than (A).", 1),
        ("Response A is better.", 0),
        ("Option B", 1),
        ("A\n\nA. The right-", 0),
        ("A. **A**\n\nA", 0),
        ("B) Work with care.", 1),
        ("A: Work with care.", 0),
        ("I choose option (B).", 1),
        ("A better one would be shorter", None),
        ("I cannot say", None),
        ("A and B are both right", None),
    ],
)
def test_an_option_is_read_where_one_is_named(text: str, place: int | None) -> None:
    assert read_choice(text, 2) == place


def test_a_pick_is_made_over_all_orders() -> None:
    """A judge that likes the first place: what it says of both orders cancels, but for what it thinks."""
    orders = [[0, 1], [1, 0]]
    assert pick_likeliest(orders, [[0.9, 0.1], [0.8, 0.2]]) == 0
    assert pick_likeliest(orders, [[0.8, 0.2], [0.9, 0.1]]) == 1
    assert pick_named(orders, [0, 1]) == 0, "the first place, then the second: the same candidate"
    assert pick_named(orders, [1, None]) == 1
    assert pick_named(orders, [None, None]) is None


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=200, max_size=200), st.integers())
def test_a_judge_that_sees_nothing_has_no_gap(right: list[list[bool]], seed: int) -> None:
    random = Random(seed)
    found = measure_gap([sum(each) / 4 for each in right], [random.choice(each) for each in right])
    assert -0.2 < found.gap < 0.2 and found.low < found.gap < found.high


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_of_single_answers_the_interval_is_that_of_paired_accuracies(pairs: list[tuple[bool, bool]]) -> None:
    before, after = [old for old, _ in pairs], [new for _, new in pairs]
    expected = PairedComparison.of(before, after)
    found = PairedShares.of(list(map(float, before)), list(map(float, after)))
    assert found.difference == pytest.approx(expected.difference)
    assert found.interval == pytest.approx(expected.interval)


@given(st.lists(st.tuples(SHARES, SHARES), max_size=60))
def test_an_interval_holds_its_difference_and_turns_with_it(pairs: list[tuple[float, float]]) -> None:
    before, after = [old for old, _ in pairs], [new for _, new in pairs]
    found, turned = PairedShares.of(before, after), PairedShares.of(after, before)
    low, high = found.interval
    assert -1 <= low <= found.difference <= high <= 1
    assert turned.interval == pytest.approx((-high, -low))


def test_the_gap_by_hand() -> None:
    """Half the candidates right on two questions, all on one: right, wrong, and nothing that can be read."""
    found = measure_gap([0.5, 0.5, 1.0], [True, False, None])
    assert (found.questions, found.gap) == (3, pytest.approx(0))
    assert found.generation == found.discrimination == pytest.approx(2 / 3)


def gap(low: float, high: float, task: str = "dialogues") -> MeasuredGap:
    return MeasuredGap(task, "probability", (low + high) / 2, low, high, 300)


def test_a_judge_worse_than_chance_stops_with_the_number_in_the_reason() -> None:
    verdict = decide([gap(-0.07, -0.012)])
    assert verdict.action == "stop"
    assert verdict.reason == (
        "discrimination gap −4.1% [−7.0%, −1.2%] on dialogues, by probability: "
        "the model picks worse than chance"
    )


@pytest.mark.parametrize(
    ("gaps", "settings", "action"),
    [
        ([gap(0.01, 0.05)], {}, "go on"),
        ([gap(-0.01, 0.05)], {}, "warn"),
        ([gap(-0.01, 0.05)], {"on_failure": "ignore"}, "go on"),
        ([gap(-0.09, -0.05)], {"on_failure": "warn"}, "warn"),
        ([gap(-0.09, -0.05)], {"on_failure": "ignore"}, "go on"),
        ([gap(0.01, 0.05)], {"least_gap": 0.06}, "stop"),
        ([gap(0.01, 0.05)], {"least_gap": 0.03}, "warn"),
        ([gap(0.01, 0.05), gap(-0.09, -0.05, "sums")], {}, "stop"),
        ([gap(0.01, 0.05), gap(-0.09, -0.05, "sums")], {"tasks": ["dialogues"]}, "go on"),
        ([gap(0.01, 0.05)], {"tasks": ["sums"], "on_missing": "stop"}, "stop"),
        ([], {}, "go on"),
        ([], {"on_missing": "warn"}, "warn"),
    ],
)
def test_the_worst_gap_that_is_heeded_counts(
    gaps: list[MeasuredGap], settings: dict[str, object], action: str
) -> None:
    assert decide(gaps, **settings).action == action  # type: ignore[arg-type]
