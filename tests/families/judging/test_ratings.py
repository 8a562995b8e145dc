"""The reward of a judge that rates, for any way in which a tokenizer splits the ratings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.models import WritingModel

from selfimprove_dagster.families.judging.comparing import rate
from selfimprove_dagster.families.judging.prompts import PROMPTS, ratings
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.prompts import load_prompts

JUDGING = load_prompts([PROMPTS], TEXT)
RATINGS = ratings(JUDGING)
SPLITS = {
    "a token per character": (),
    "a token per rating": RATINGS,
    "the space with the first digit": RATINGS[:-1],
    "ten in one token after the space": ("10",),
    "a word for ten": (" 10",),
}
"""The tokens of more than one character, by how they split ` 1` and ` 10`."""

splits = pytest.mark.parametrize("pieces", SPLITS.values(), ids=SPLITS.keys())


def rated(pieces: tuple[str, ...], **written: float) -> float:
    model = WritingModel(lambda prompt: {f" {text}": share for text, share in written.items()}, pieces)
    (reward,) = rate(model, JUDGING, ["Who?"], ["How good is it?"], ["Greta."])  # type: ignore[arg-type]
    return reward


@splits
@pytest.mark.parametrize("end", ["", "\n", ".", "/10", " of 10"])
def test_a_judge_that_is_certain_of_a_rating_gives_its_reward(pieces: tuple[str, ...], end: str) -> None:
    rewards = {rating: rated(pieces, **{f"{rating}{end}": 1.0}) for rating in range(1, 11)}
    assert rewards == pytest.approx({rating: (rating - 5.5) / 4.5 for rating in range(1, 11)})
    assert (rewards[10], rewards[9], rewards[1]) == pytest.approx((1.0, 0.7778, -1.0), abs=1e-4)


@splits
@given(shares=st.lists(st.floats(0.001, 1), min_size=10, max_size=10))
def test_a_reward_is_the_mean_rating_however_ratings_are_split(
    pieces: tuple[str, ...], shares: list[float]
) -> None:
    written = {str(rating): share / sum(shares) for rating, share in enumerate(shares, start=1)}
    mean = sum(int(rating) * share for rating, share in written.items())
    assert rated(pieces, **written) == pytest.approx((mean - 5.5) / 4.5)


def test_what_no_option_says_is_left_out() -> None:
    assert rated((), **{"10": 0.2, "none": 0.8}) == pytest.approx(1.0)
