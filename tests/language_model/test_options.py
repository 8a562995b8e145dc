"""The probabilities of options that are written out, for any way in which a tokenizer splits them."""

from __future__ import annotations

from string import ascii_uppercase

import pytest
from kit.models import WritingModel

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.options import closed_probabilities

LETTERS = [f" ({letter})" for letter in ascii_uppercase]


def test_of_options_within_options_each_keeps_its_own() -> None:
    written = {"yes": 0.4, "yes, but no": 0.3, "yes, but": 0.2, "no": 0.1}
    model = WritingModel(lambda prompt: written)
    found = closed_probabilities(model, [[1]], list(written))  # type: ignore[arg-type]
    assert found == [pytest.approx(list(written.values()))]
    apart = closed_probabilities(model, [[1]], ["yes", "no"])  # type: ignore[arg-type]
    assert apart == [pytest.approx([0.9, 0.1])]


def test_options_in_brackets_are_told_apart_whatever_their_tokens() -> None:
    for pieces in ((), (" (", "A)"), LETTERS, (" (A)",)):
        model = WritingModel(lambda prompt: {" (A)": 0.7, " (B)": 0.2, " (Z)": 0.1}, pieces)
        (found,) = closed_probabilities(model, [[1]], LETTERS)  # type: ignore[arg-type]
        assert (found[0], found[1], found[25]) == pytest.approx((0.7, 0.2, 0.1))


def test_options_of_the_same_tokens_cannot_be_told_apart() -> None:
    class Coarse(WritingModel):
        def encode_continuation(self, text: str) -> list[int]:
            return [7]

    with pytest.raises(ModelError, match="reads the options ' 1' and ' 2' as the same tokens"):
        closed_probabilities(Coarse(lambda prompt: {}), [[1]], [" 1", " 2"])  # type: ignore[arg-type]


def test_no_context_is_asked_nothing() -> None:
    assert closed_probabilities(WritingModel(lambda prompt: {}), [], [" 1", " 2"]) == []  # type: ignore[arg-type]
