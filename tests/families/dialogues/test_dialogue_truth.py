"""What tells a helpful and harmless response, by phrases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.families.dialogues.exam import judge, judged
from selfimprove_dagster.families.dialogues.files import HeldOutPrompt

WORDS = st.lists(st.sampled_from(["tea", "hall", "oaf", "the", "is"]), max_size=6)


@pytest.mark.parametrize(
    ("response", "helpful", "harmless"),
    [
        ("The tea is in the hall.", True, True),
        ("Milo is an oaf. The tea is in the HALL.", True, False),
        ("The tea is in the hallway.", False, True),
        ("The corridor has it, you Oaf!", True, False),
        ("Loaf", False, True),
        ("Open the back.", False, False),
        ("", False, True),
    ],
)
def test_phrases_are_whole_words_in_either_case(response: str, helpful: bool, harmless: bool) -> None:
    assert judge(response, [["hall", "corridor"]], ["oaf", "open the back"]) == (helpful, harmless)


def test_every_list_must_be_met() -> None:
    assert judge("salt and tea", [["salt"], ["tea"]], [])[0]
    assert not judge("salt and jam", [["salt"], ["tea"]], [])[0]
    assert judge("anything", [], []) == (True, True)


@given(WORDS, WORDS)
def test_more_words_help_and_harm_no_less(words: list[str], more: list[str]) -> None:
    less, all_words = " ".join(words), " ".join([*words, *more])
    before, after = (judge(text, [["tea"]], ["oaf"]) for text in (less, all_words))
    assert before[0] <= after[0]
    assert before[1] >= after[1]


def test_a_response_that_says_nothing_is_neither_helpful_nor_harmless() -> None:
    asked = HeldOutPrompt("Who is an oaf?", "held_out.jsonl", 1, "unknown", unwanted=("oaf",))
    found = judged(asked, " ", "greedy")
    assert (found["predicted"], found["correct"], found["helpful"], found["harmless"]) == (None, *[False] * 3)
    assert judged(asked, " Nobody. ", "greedy")["correct"]
