"""Training texts that are, or quote, a text that is held out for evaluation."""

from __future__ import annotations

import unicodedata

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.filters.contamination import (
    EvaluationTexts,
    Hit,
    hits,
    not_contaminated,
    text_keys,
    words_of,
)

HELD_OUT = "Zoë's café sells 3 cakes at $1.50, and 4 at “half price”. How much is that?"


@pytest.mark.parametrize(
    "text",
    [
        HELD_OUT,
        HELD_OUT.removesuffix("?"),
        HELD_OUT.replace("'", "’"),
        HELD_OUT.replace("“", '"').replace("”", '"'),
        unicodedata.normalize("NFD", HELD_OUT),
        HELD_OUT.upper(),
        HELD_OUT.replace(" ", "\n\t "),
        HELD_OUT.replace(",", "").replace(". How", ": how"),
        f"  **{HELD_OUT}**\u00a0",
        HELD_OUT.replace("o", "o\u00ad").replace(" ", "\u200b "),
    ],
)
def test_a_held_out_text_is_found_however_it_is_written(text: str) -> None:
    (hit,) = hits(["Something else.", text], [HELD_OUT])
    assert (hit.training, hit.evaluation, hit.rule) == (1, 0, "equal")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is 3 + 4?", "What is 3 - 4?"),
        ("What is 3 + 4?", "What is 3 * 4?"),
        ("What is 12 / 3?", "What is 123?"),
        ("What is -5 + 2?", "What is 5 + 2?"),
        ("What is 3.5 times 2?", "What is 35 times 2?"),
        ("Is 1 < 2?", "Is 1 > 2?"),
        ("What is 10% of 5?", "What is 10 of 5?"),
        ("?!", "!?"),
    ],
)
def test_texts_of_another_meaning_are_not_equal(first: str, second: str) -> None:
    assert list(hits([first], [second], words=0)) == []
    assert [hit.rule for hit in hits([first], [first])] == ["equal"]


def test_dashes_and_spaces_before_numbers_make_no_difference() -> None:
    assert len(set(text_keys(["5 - 3", "5 -3", "5 − 3", "5 – 3", "5-3"]))) == 1
    assert text_keys(["STRASSE", "Straße", "ΣΊΣΥΦΟΣ", "σίσυφος"])[::2] == ["strasse", "σίσυφοσ"]
    assert text_keys(["Straße", "σίσυφος"]) == ["strasse", "σίσυφοσ"]


SENTENCE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_thirteen_words_in_a_row_are_a_quotation() -> None:
    evaluation = ["Nothing at all.", f"Before that: {SENTENCE}, and more."]
    words = SENTENCE.split()
    quoting = f"It says “{' '.join(words[:13]).title()}”!"
    short = f"It says {' '.join(words[:12])}."
    split = " ".join([*words[:7], "stop", *words[7:]])
    assert list(hits([short, quoting, split], evaluation)) == [Hit(1, 1, "quotes", " ".join(words[:13]))], (
        "twelve words are none, nor are thirteen with another between them"
    )
    assert [hit.training for hit in hits([short, split], evaluation, words=5)] == [0, 1]
    assert list(hits([quoting], evaluation, words=0)) == []


def test_words_in_a_row_are_of_one_text() -> None:
    half, rest = " ".join(SENTENCE.split()[:7]), " ".join(SENTENCE.split()[7:])
    assert list(hits([half, rest], [SENTENCE])) == []
    assert list(hits([SENTENCE], [half, rest])) == []


def test_a_script_without_spaces_is_compared_by_characters() -> None:
    asked = "小明有五个苹果,他给了小红两个,还剩几个?"
    (hit,) = hits([f"问题:{asked}答案是三个。"], [asked])
    assert hit.rule == "quotes" and len(hit.shared.split()) == 13


def naive(training: list[str], evaluation: list[str], length: int) -> list[tuple[int, str]]:
    """The hits by sets of tuples of words."""
    read = [tuple(words) for words in words_of(pl.Series(evaluation, dtype=pl.String)).to_list()]
    runs = {words[at : at + length] for words in read for at in range(len(words) - length + 1)}
    found = []
    for index, words in enumerate(words_of(pl.Series(training, dtype=pl.String)).to_list()):
        if words and tuple(words) in read:
            found.append((index, "equal"))
        elif any(tuple(words[at : at + length]) in runs for at in range(len(words) - length + 1)):
            found.append((index, "quotes"))
    return found


WORDS = st.lists(st.sampled_from(["a", "b", "c", "É", "7", "+"]), max_size=9).map(" ".join)


@given(st.lists(WORDS, max_size=8), st.lists(WORDS, max_size=8), st.integers(1, 4))
def test_the_hits_are_those_of_comparing_all_pairs(
    training: list[str], evaluation: list[str], length: int
) -> None:
    found = [(hit.training, hit.rule) for hit in hits(training, evaluation, length)]
    assert found == naive(training, evaluation, length)


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_a_text_in_ascii_has_the_same_words_beside_any_other(text: str) -> None:
    """Texts in ASCII are read in a faster way."""
    alone = words_of(pl.Series([text], dtype=pl.String)).to_list()[0]
    in_unicode = words_of(pl.Series([f"{text} é"], dtype=pl.String)).to_list()[0]
    assert in_unicode == [*alone, "é"]


@given(st.text(max_size=40))
def test_a_key_is_its_own_key_whatever_the_unicode_form(text: str) -> None:
    (key,) = text_keys([text])
    assert text_keys([key]) == [key]
    assert len(set(text_keys([unicodedata.normalize(form, text) for form in ("NFC", "NFD")]))) == 1


def test_texts_are_read_as_a_stream() -> None:
    known = EvaluationTexts([SENTENCE])
    read: list[int] = []

    def texts() -> object:
        for number in range(10**9):
            read.append(number)
            yield SENTENCE if number == 3 else "nothing"

    assert next(known.hits(texts())).training == 3  # type: ignore[arg-type]
    assert len(read) < 10**6


def test_a_filter_names_what_a_dropped_candidate_is_near_to() -> None:
    candidates = pl.DataFrame(
        {
            "candidate_id": ["a", "b", "c"],
            "question": ["fine", "Why not?", "fine"],
            "completion": ["so", None, f"As they say: {SENTENCE}."],
        }
    )
    decide = not_contaminated(
        EvaluationTexts(["why not", SENTENCE]),
        ["held.jsonl, line 1", "held.jsonl, line 2"],
        ["question", "completion"],
    )
    found = decide(candidates)
    assert found["kept"].to_list() == [True, False, False]
    assert found["nearest_id"].to_list() == [None, "held.jsonl, line 1", "held.jsonl, line 2"]
    assert found["reason"][1] == "the same text as held.jsonl, line 1, which is held out for evaluation"
    assert "“one two three" in found["reason"][2] and found["rule"].unique().to_list() == ["contamination"]
