"""The probabilities of options that are written out, for any way in which a tokenizer splits them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.models import WritingModel

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.families.judging.comparing import rate
from selfimprove_dagster.families.judging.options import closed_probabilities
from selfimprove_dagster.families.judging.prompts import PROMPTS, options, ratings
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


def test_of_options_within_options_each_keeps_its_own() -> None:
    written = {"yes": 0.4, "yes, but no": 0.3, "yes, but": 0.2, "no": 0.1}
    model = WritingModel(lambda prompt: written)
    found = closed_probabilities(model, [[1]], list(written))  # type: ignore[arg-type]
    assert found == [pytest.approx(list(written.values()))]
    apart = closed_probabilities(model, [[1]], ["yes", "no"])  # type: ignore[arg-type]
    assert apart == [pytest.approx([0.9, 0.1])]


def test_options_in_brackets_are_told_apart_whatever_their_tokens() -> None:
    for pieces in ((), (" (", "A)"), options(JUDGING, "comparison", 26), (" (A)",)):
        model = WritingModel(lambda prompt: {" (A)": 0.7, " (B)": 0.2, " (Z)": 0.1}, pieces)
        (found,) = closed_probabilities(model, [[1]], options(JUDGING, "comparison", 26))  # type: ignore[arg-type]
        assert (found[0], found[1], found[25]) == pytest.approx((0.7, 0.2, 0.1))


def test_options_of_the_same_tokens_cannot_be_told_apart() -> None:
    class Coarse(WritingModel):
        def encode_continuation(self, text: str) -> list[int]:
            return [7]

    with pytest.raises(ModelError, match="reads the options ' 1' and ' 2' as the same tokens"):
        closed_probabilities(Coarse(lambda prompt: {}), [[1]], [" 1", " 2"])  # type: ignore[arg-type]


def test_no_context_is_asked_nothing() -> None:
    assert closed_probabilities(WritingModel(lambda prompt: {}), [], RATINGS) == []  # type: ignore[arg-type]
