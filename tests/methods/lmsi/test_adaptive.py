"""Adaptive-Consistency: when a vote is decided, and what is drawn until then."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.models import FakeLanguageModel
from kit.small_lake import activity_of, make_experiment, seed_draft, store

from selfimprove_dagster.answers.answers import extract_answers
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.methods.lmsi.adaptive import expected_gain, is_decided, leader_probability
from selfimprove_dagster.methods.lmsi.sampling import generate_paths
from selfimprove_dagster.methods.lmsi.settings import AdaptiveSection
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS, SEED_POOL


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 1), (7, 7), (20, 5)])
def test_the_probability_is_the_binomial_tail(first: int, second: int) -> None:
    """P(Beta(a, b) > ½) for whole a, b is P(Binomial(a + b - 1, ½) < a)."""
    n = first + second + 1
    tail = sum(math.comb(n, k) for k in range(first + 1)) / 2**n
    assert leader_probability(first, second) == pytest.approx(tail)


def test_four_equal_votes_decide_at_the_paper_s_confidence_and_three_do_not() -> None:
    assert leader_probability(4, 0) == pytest.approx(31 / 32)
    assert is_decided(["7"] * 4, 40, 0.95)
    assert not is_decided(["7"] * 3, 40, 0.95)


def test_unreadable_answers_are_no_votes() -> None:
    assert not is_decided([None] * 30, 40, 0.95)
    assert is_decided([None] * 40, 40, 0.95)
    assert is_decided([*["7"] * 4, *[None] * 8], 40, 0.95)


def test_a_lead_that_cannot_be_made_up_decides() -> None:
    assert leader_probability(5, 3) < 0.95
    assert is_decided(["7"] * 5 + ["8"] * 3, 9, 0.95)
    assert not is_decided(["7"] * 5 + ["8"] * 3, 10, 0.95)


@given(
    st.lists(st.sampled_from(["1", "2", "3", None]), max_size=30),
    st.integers(0, 12),
    st.floats(0.51, 0.999),
)
def test_more_confidence_never_stops_earlier(answers: list[str | None], left: int, confidence: float) -> None:
    most = len(answers) + left
    if is_decided(answers, most, confidence):
        assert is_decided(answers, most, 0.5)
    else:
        assert not is_decided(answers, most, 0.9999)


def gain_by_enumeration(first: int, second: int, left: int) -> float:
    """Every way in which the votes that are left can fall, each drawn from Pólya's urn of those before it."""
    gain = 0.0
    for ballots in product((True, False), repeat=left):
        leading, next_one, chance = first, second, 1.0
        for for_leader in ballots:
            total = leading + next_one + 2
            chance *= (leading + 1 if for_leader else next_one + 1) / total
            leading, next_one = leading + for_leader, next_one + (not for_leader)
        likelier = leader_probability(leading, next_one)
        gain += chance * (max(likelier, 1 - likelier) if next_one > leading else likelier)
    return gain - leader_probability(first, second)


votes_and_left = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 40)).map(
    lambda drawn: (max(drawn[:2]), min(drawn[:2]), drawn[2])
)


@pytest.mark.parametrize("left", [0, 1, 2, 5, 9])
@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (1, 1), (3, 1), (4, 4), (6, 2)])
def test_the_expected_gain_is_that_of_every_way_to_go_on(first: int, second: int, left: int) -> None:
    assert expected_gain(first, second, left) == pytest.approx(
        gain_by_enumeration(first, second, left), abs=1e-12
    )


@given(votes_and_left)
def test_the_expected_gain_is_at_most_the_doubt_and_grows_with_what_is_left(
    state: tuple[int, int, int],
) -> None:
    """So a gain of 1 − confidence stops no later than the paper's rule does."""
    first, second, left = state
    gain = expected_gain(first, second, left)
    assert 0 <= gain <= 1 - leader_probability(first, second) + 1e-12
    assert gain <= expected_gain(first, second, left + 1) + 1e-12
    if first - second >= left:
        assert gain == 0


@given(votes_and_left, st.floats(0.001, 0.2))
def test_drawing_stops_exactly_where_it_is_decided_or_not_worth_it(
    state: tuple[int, int, int], least_gain: float
) -> None:
    first, second, left = state
    answers, most = ["7"] * first + ["8"] * second, sum(state)
    decided = is_decided(answers, most, 0.95)
    worth_it = first == 0 or gain_at_most(first, second, left) > least_gain
    assert is_decided(answers, most, 0.95, least_gain) == (decided or not worth_it)


def gain_at_most(first: int, second: int, left: int) -> float:
    """The gain by whole numbers alone: its Beta-binomial and Beta tails as counts of subsets."""
    n = first + second + left + 1
    below = [sum(math.comb(n, k) for k in range(votes + 1)) / 2**n for votes in range(n)]
    return sum(
        math.comb(first + won, won)
        * math.comb(second + left - won, left - won)
        / math.comb(n, left)
        * max(0.0, 1 - 2 * below[first + won])
        for won in range(left + 1)
    )


def test_a_tie_is_given_up_late_in_the_vote_and_two_more_votes_are_waited_for_early() -> None:
    tied = ["7", "8"] * 18
    assert not is_decided(tied, 40, 0.95)
    assert is_decided(tied, 40, 0.95, 0.1)
    assert not is_decided(["7", "8"] * 4, 40, 0.95, 0.1)


def drawn(tmp_path: Path, name: str, adaptive: AdaptiveSection | None) -> tuple[dict[str, list[int]], int]:
    """Seeds of each question's paths in order of drawing, and how many rows the model was asked for."""
    lake = Lake(tmp_path / name)
    experiment = make_experiment(tmp_path)
    section = experiment.sampling.model_copy(update={"paths": 24, "adaptive": adaptive})
    experiment = experiment.model_copy(update={"sampling": section})
    drafts = [seed_draft(f"What is {n} + 1?", n) for n in range(6)]
    manifest, _ = store(lake, SEED_POOL, drafts)
    questions = lake.read_ungated(manifest)
    model = FakeLanguageModel()
    activity = activity_of(RAW_GENERATIONS)
    with lake.writer(RAW_GENERATIONS, activity) as writer:
        generate_paths(writer, model, questions, experiment)
        rows = lake.read_ungated(writer.commit())
    votes = {}
    for question, group in rows.sort("sample_index").group_by("question_id", maintain_order=True):
        answers = extract_answers(group["text"]).to_list()
        if adaptive is not None:
            least, rule = len(answers) - adaptive.step, (adaptive.confidence, adaptive.least_gain)
            assert len(answers) == 24 or is_decided(answers, 24, *rule)
            assert least <= 0 or not is_decided(answers[:least], 24, *rule)
        assert group["sample_index"].to_list() == list(range(len(group)))
        votes[str(question[0])] = group["seed"].to_list()
    return votes, len(rows)


@pytest.mark.parametrize("least_gain", [None, 0.05])
def test_the_paths_drawn_are_the_first_of_those_of_a_full_vote(
    tmp_path: Path, least_gain: float | None
) -> None:
    """So nothing depends on the other questions that are still open, and a replay needs the row alone."""
    everything, most = drawn(tmp_path, "full", None)
    some, fewer = drawn(tmp_path, "adaptive", AdaptiveSection(confidence=0.8, least_gain=least_gain, step=4))
    assert most == 6 * 24
    assert fewer < most
    for question, seeds in some.items():
        assert seeds == everything[question][: len(seeds)]
