"""Intervals and tests, against published values and by counting."""

from __future__ import annotations

from itertools import product
from math import comb, isnan, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.evaluation.measurement import Z95, Accuracy, PairedComparison

COUNTS = st.integers(0, 500)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), Statistics in Medicine 17, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_wilson_interval_is_the_published_one(correct: int, total: int, low: float, high: float) -> None:
    assert Accuracy(correct, total).interval == pytest.approx((low, high), abs=5e-5)


@given(correct=COUNTS, wrong=COUNTS)
def test_the_wilson_interval_is_wilsons_formula_and_holds_the_value(correct: int, wrong: int) -> None:
    measured = Accuracy(correct, correct + wrong)
    low, high = measured.interval
    if measured.total == 0:
        assert isnan(measured.value)
        assert (low, high) == (0.0, 1.0)
        return
    n, share, z2 = measured.total, measured.value, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    assert (low, high) == pytest.approx((middle - half, middle + half), rel=0, abs=5e-16)
    assert 0 <= low <= share <= high <= 1


def test_an_accuracy_is_written_with_its_interval() -> None:
    assert str(Accuracy(81, 263)) == "30.8% [25.5%, 36.6%]"


@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_a_comparison_counts_what_changed(pairs: list[tuple[bool, bool]]) -> None:
    before, after = [old for old, _ in pairs], [new for _, new in pairs]
    comparison = PairedComparison.of(before, after)
    assert comparison == PairedComparison(
        len(pairs), gained=pairs.count((False, True)), lost=pairs.count((True, False))
    )
    assert comparison.difference * len(pairs) == pytest.approx(sum(after) - sum(before))
    swapped = PairedComparison.of(after, before)
    low, high = comparison.interval
    assert swapped.interval == pytest.approx((-high, -low))


def test_sequences_of_unequal_length_are_no_pairs() -> None:
    with pytest.raises(ValueError):
        PairedComparison.of([True], [True, False])


@pytest.mark.parametrize(("gained", "lost"), list(product(range(7), range(7))))
def test_the_test_is_the_exact_one_sided_mcnemar_test(gained: int, lost: int) -> None:
    """Each changed question is a fair coin: count the outcomes with at least so many losses."""
    changed = gained + lost
    tail = sum(comb(changed, losses) for losses in range(lost, changed + 1)) / 2**changed
    comparison = PairedComparison(100, gained, lost)
    assert comparison.p_worse == pytest.approx(tail)


def test_known_tails_of_the_coin() -> None:
    assert PairedComparison(50, gained=1, lost=9).p_worse == pytest.approx(11 / 1024)
    assert PairedComparison(50, gained=0, lost=0).p_worse == 1
    assert PairedComparison(50, gained=0, lost=4).p_worse == 1 / 16


@given(gained=COUNTS, lost=COUNTS, same=COUNTS)
def test_the_interval_of_the_difference_is_bonett_and_prices(gained: int, lost: int, same: int) -> None:
    """One is added to each count of changed questions, two to the number of questions."""
    comparison = PairedComparison(gained + lost + same, gained, lost)
    n = gained + lost + same + 2
    p12, p21 = (gained + 1) / n, (lost + 1) / n
    half = 1.959964 * sqrt((p12 + p21 - (p12 - p21) ** 2) / n)
    low, high = comparison.interval
    assert low == pytest.approx(max(-1, p12 - p21 - half), abs=1e-6)
    assert high == pytest.approx(min(1, p12 - p21 + half), abs=1e-6)
    assert -1 <= low <= high <= 1


def test_a_share_of_nothing_is_not_measured() -> None:
    assert str(Accuracy(0, 0)) == "not measured"
    assert str(Accuracy(1, 2)) == "50.0% [9.5%, 90.5%]"
