"""Adaptive-Consistency: when a vote is decided, and what is drawn until then."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_lake import FakeLanguageModel, activity_of, make_experiment, seed_draft, store

from selfimprove_dagster import tables
from selfimprove_dagster.generation import generate_paths, sampling_parameters
from selfimprove_dagster.lake import Lake
from selfimprove_dagster.methods.adaptive import is_decided, leader_probability
from selfimprove_dagster.methods.answers import extract_answers
from selfimprove_dagster.sections import AdaptiveSection


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


def drawn(tmp_path: Path, name: str, adaptive: AdaptiveSection | None) -> tuple[dict[str, list[int]], int]:
    """Seeds of each question's paths in order of drawing, and how many rows the model was asked for."""
    lake = Lake(tmp_path / name)
    experiment = make_experiment(tmp_path)
    section = experiment.sampling.model_copy(update={"paths": 24, "adaptive": adaptive})
    drafts = [seed_draft(f"What is {n} + 1?", n) for n in range(6)]
    manifest, _ = store(lake, tables.SEED_POOL, drafts)
    questions = lake.read_ungated(manifest)
    model = FakeLanguageModel()
    activity = activity_of(tables.RAW_GENERATIONS)
    with lake.writer(tables.RAW_GENERATIONS, activity) as writer:
        generate_paths(
            writer,
            model,
            questions,
            section,
            sampling_parameters(section, improved=False),
            (),
            seeds_from=(7, 0),
            log=lambda line: None,
        )
        rows = lake.read_ungated(writer.commit())
    votes = {}
    for question, group in rows.sort("sample_index").group_by("question_id", maintain_order=True):
        answers = extract_answers(group["text"]).to_list()
        if adaptive is not None:
            least = len(answers) - adaptive.step
            assert len(answers) == 24 or is_decided(answers, 24, adaptive.confidence)
            assert least <= 0 or not is_decided(answers[:least], 24, adaptive.confidence)
        assert group["sample_index"].to_list() == list(range(len(group)))
        votes[str(question[0])] = group["seed"].to_list()
    return votes, len(rows)


def test_the_paths_drawn_are_the_first_of_those_of_a_full_vote(tmp_path: Path) -> None:
    """So nothing depends on the other questions that are still open, and a replay needs the row alone."""
    everything, most = drawn(tmp_path, "full", None)
    some, fewer = drawn(tmp_path, "adaptive", AdaptiveSection(confidence=0.8, step=4))
    assert most == 6 * 24
    assert fewer < most
    for question, seeds in some.items():
        assert seeds == everything[question][: len(seeds)]
