"""What is scaled of a pilot's measurements, and how."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.estimating.forecast import Forecast, Range, StageForecast
from selfimprove_dagster.estimating.measuring import MOST, Batch, Effort, Piece, Took, grow
from selfimprove_dagster.estimating.substitutes import CountingModels, _more_seconds
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.language_model.base import Generation, Usage
from selfimprove_dagster.language_model.paid import cost
from selfimprove_dagster.methods.self_instruct.growth import species_growth


def test_tokens_and_money_are_scaled_by_items() -> None:
    piece = Piece(100, [Batch(4, Took(40, 1.0, 0.1)), Batch(6, Took(60, 1.0, 0.2))])
    assert (piece.done, piece.scale) == (10, 10.0)
    assert piece.tokens.middle == pytest.approx(1000) and piece.tokens.high > 1000
    assert piece.money == pytest.approx(3.0)
    assert Piece(10, piece.batches).tokens == Range(100, 100), "nothing is left to guess"


def test_uneven_batches_widen_the_range() -> None:
    even = Piece(100, [Batch(5, Took(50)), Batch(5, Took(50))]).tokens
    uneven = Piece(100, [Batch(5, Took(20)), Batch(5, Took(80))]).tokens
    assert even.middle == pytest.approx(uneven.middle)
    assert uneven.low < even.low < even.high < uneven.high


def test_what_every_batch_takes_is_left_out_of_the_lower_time() -> None:
    """Batches take one second, and a tenth for each item."""
    batches = [Batch(count, Took(0, 1 + count / 10)) for count in (4, 12, 36)]
    found = Piece(1000, batches, largest=100).seconds
    assert found.low == pytest.approx(1000 * 0.1) and found.high == pytest.approx(1000 * 4.6 / 36)
    assert Piece(1000, batches).seconds.low == found.high, "those of an iteration are as large"


def test_the_memory_of_larger_batches_grows_as_between_the_last_two() -> None:
    batches = [Batch(count, Took(0, 1, peaks={"peak_memory": 500 + 2.0 * count})) for count in (4, 12, 36)]
    assert Piece(1000, batches, largest=100).peaks == {"peak_memory": 700}
    assert Piece(1000, batches, largest=36).peaks == Piece(1000, batches).peaks == {"peak_memory": 572}
    alone = Piece(1000, batches[:1], largest=100)
    assert alone.peaks == {"peak_memory": 508} and alone.is_cut and not alone.is_extrapolated


@given(st.integers(0, 4000), st.integers(1, 300), st.booleans())
def test_batches_cover_the_first_items_once(count: int, most: int, gets_faster: bool) -> None:
    slices: list[slice] = []

    def work(part: slice) -> Took:
        slices.append(part)
        return Took(seconds=1e-6 * (1 if gets_faster else part.stop - part.start))

    batches = grow(count, most, work, Effort(48))
    done = sum(batch.items for batch in batches)
    ends = [part.stop for part in slices]
    assert [part.start for part in slices] == [0, *ends[:-1]][: len(slices)]
    assert min(count, 48) <= done <= min(count, MOST + most)
    assert all(batch.items <= most for batch in batches)


def test_a_checkpoint_is_not_a_step() -> None:
    """Steps of a second; the checkpoint after step 4 took three more, and 100 steps have five of them."""
    log = [{"step": step, "seconds": step + (3 if step > 4 else 0)} for step in range(1, 7)]
    assert _more_seconds(log, left=94, saves=5, saves_at=4) == Range(94 + 4 * 3, 94 + 4 * 3)


def test_prices_are_per_million_tokens() -> None:
    assert cost(1_000_000, 500_000, {"input": 0.5, "output": 2.0}) == 1.5
    assert cost(1, 1, None) == 0.0


class Answers:
    """A model whose answers cost 7 tokens of the prompt, and 3 of their own."""

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], _: Any) -> Any:
        path = Generation([], [], "Yes, it is.", "stop", usage=Usage(7, 3))
        return [[path] * len(row) for row in seeds]

    def option_probabilities(self, contexts: Sequence[Sequence[int]], options: Any) -> Any:
        return [[0.5, 0.5] for _ in contexts]

    score = next_token_probability = among_likeliest = option_probabilities


def test_a_pilot_counts_the_tokens_that_a_provider_counts() -> None:
    class Opens:
        @contextmanager
        def open(self, *_: Any) -> Iterator[Answers]:
            yield Answers()

    models = CountingModels(Opens())  # type: ignore[arg-type]
    section = ModelSection.model_validate(
        {"path": "small-1", "engine": "chat", "prices": {"input": 10, "output": 100}, "chat": {"answers": 3}}
    )
    with models.open(section) as model:
        model.generate([[0] * 40, [0] * 20], [[1, 2], [3]], None)  # type: ignore[arg-type]
        assert models.money == pytest.approx(3 * (7 * 10 + 3 * 100) / 1e6), "characters are no tokens"
        model.option_probabilities([[0] * 40], [[1], [2]])
    assert models.money == pytest.approx((21 * 10 + 9 * 100 + 3 * (10 * 10 + 100)) / 1e6)


def test_the_whole_is_the_sum_and_the_highest_peak() -> None:
    stages = [
        StageForecast("one", Range(1, 2), Range(3, 4), 5, memory=6, money=0.5),
        StageForecast(
            "two", Range(7, 7), Range(1, 1), 10, generates=False, scratch=9, memory=8, at_least=True
        ),
    ]
    total = Forecast(0, stages, 1, "budget.iterations", []).total
    assert (total.tokens, total.seconds, total.bytes) == (Range(1, 2), Range(4, 5), 15)
    assert (total.scratch, total.memory, total.gpu_memory, total.money) == (9, 8, None, 0.5)
    assert total.at_least


@pytest.mark.parametrize("kinds", [30, 300, 3000])
def test_species_grow_as_in_a_larger_sample(kinds: int) -> None:
    """Species of unequal frequency, of which a sample shows some, and three times the sample more."""
    draw = random.Random(1)
    weights = [1 / (5 + rank) for rank in range(kinds)]
    sample = draw.choices(range(kinds), weights, k=1500)
    counts = Counter(sample[:500])
    found = species_growth([*counts.values()], 500, 3.0)
    assert found * len(counts) == pytest.approx(len(set(sample)), rel=0.1)


def test_species_without_rare_ones_do_not_grow() -> None:
    assert species_growth([3, 4, 5], 12, 10.0) == 1.0
    assert species_growth([], 12, 10.0) == 1.0
    assert species_growth([1] * 50, 50, 4.0) == pytest.approx(4.0, rel=0.1), "no two were alike"
