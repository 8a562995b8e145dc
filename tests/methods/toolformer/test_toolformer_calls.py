"""The text form of calls: writing, reading, taking in and out of a text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.tools.calls import (
    NO_CALL,
    Call,
    PlacedCall,
    call_without_result,
    clean_result,
    interleave,
    read_call,
    take_out,
    write_call,
)

TOOLS = ("Calculator", "QA", "Calendar")


def test_calls_are_written_as_in_the_talk() -> None:
    call = Call("Calculator", "400 / 1400", "0.29")
    assert write_call(call) == "[Calculator(400 / 1400) → 0.29]"
    assert write_call(call_without_result(call)) == "[Calculator(400 / 1400) →]"
    assert write_call(Call("QA", '"Where was Joe Biden born?"')) == '[QA("Where was Joe Biden born?")]'
    text = "Out of 1400 participants, 400 (or 29%) passed the test."
    assert interleave(text, [PlacedCall(text.index("29%"), call)]) == (
        "Out of 1400 participants, 400 (or [Calculator(400 / 1400) → 0.29] 29%) passed the test."
    )
    assert clean_result("see [1]\n→ there") == "see (1) -> there"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("Calculator(400 / 1400)", "400 / 1400"),
        (" Calculator((1 + 2) * 3) ", "(1 + 2) * 3"),
        ("[Calculator(1 + 1) → 3]", "1 + 1"),
        ("Calculator(1 + 1) -> 3", "1 + 1"),
        ("Calculator((1 + 1)) →", "(1 + 1)"),
        ("Calculator ( 2 )", "2"),
        ('QA("f(x) → y?")', '"f(x) → y?"'),
        ('QA("Who said "no" (twice)?")', '"Who said "no" (twice)?"'),
        ("Calendar()", ""),
    ],
)
def test_a_generated_call_is_read_without_the_result_that_the_model_made_up(
    text: str, arguments: str
) -> None:
    call = read_call(text, TOOLS)
    assert isinstance(call, Call)
    assert (call.arguments, call.result) == (arguments, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Calculator(1 + 1", NO_CALL),
        ("Calculator 1 + 1", NO_CALL),
        ("", NO_CALL),
        ("(1 + 1)", NO_CALL),
        ("Calculator(1)\nand more", NO_CALL),
        ("Calculator(1) and more", NO_CALL),
        ("Calculator(a[0])", NO_CALL),
        ("Weather(Rome)", "no tool is called Weather; there are Calculator, Calendar, QA"),
        ("Calculator(" + "(" * 1_000_000, "longer than 4,000 characters"),
    ],
)
def test_what_is_no_call_has_a_reason(text: str, reason: str) -> None:
    assert read_call(text, TOOLS) == reason


def test_several_calls_stand_in_one_text_in_the_order_of_their_positions() -> None:
    placed = [
        PlacedCall(11, Call("Calculator", "3 + 4", "7")),
        PlacedCall(0, Call("Calendar", "", "Today.")),
        PlacedCall(11, Call("QA", '"How many?"', "7")),
    ]
    text = "Nina keeps 7 plums."
    annotated = interleave(text, placed)
    assert annotated == (
        '[Calendar() → Today.] Nina keeps [Calculator(3 + 4) → 7] [QA("How many?") → 7] 7 plums.'
    )
    assert take_out(annotated, TOOLS) == (text, [placed[1], placed[0], placed[2]])
    with pytest.raises(ValueError, match="position 20 is outside a text of 19 characters"):
        interleave(text, [PlacedCall(20, placed[0].call)])


def test_brackets_that_are_no_calls_stay() -> None:
    text = "See [1], [Weather(Rome) → sun] and [Calculator(] or [[Calculator(1)]."
    plain, placed = take_out(text, TOOLS)
    assert plain == "See [1], [Weather(Rome) → sun] and [Calculator(] or [."
    assert [item.call for item in placed] == [Call("Calculator", "1")]


WORDS = st.text(st.sampled_from("ab .,()→\n\té"), max_size=30)
CALLS = st.builds(
    Call,
    st.sampled_from(TOOLS),
    st.sampled_from(["", "1 + 1", '"a b?"', "(2)", '"x → y"']),
    st.sampled_from([None, "", "2", "a (1) -> b"]),
)


@given(WORDS, st.lists(st.tuples(st.integers(0, 30), CALLS), max_size=4))
def test_what_is_put_in_can_be_taken_out(text: str, calls: list[tuple[int, Call]]) -> None:
    placed = [PlacedCall(min(position, len(text)), call) for position, call in calls]
    annotated = interleave(text, placed)
    plain, found = take_out(annotated, TOOLS)
    assert plain == text
    assert [item.call for item in found] == [
        item.call for item in sorted(placed, key=lambda item: item.position)
    ]
    assert interleave(text, found) == annotated


@pytest.mark.parametrize(
    "piece", ["[", "[A(", "[Calculator(1) → ", ")→", '" ', "]", "[Calculator(", "Calculator() "]
)
def test_megabytes_are_read_in_time(piece: str) -> None:
    text = "[Calculator(" + piece * (1_000_000 // len(piece))
    start = time.perf_counter()
    assert take_out(text, TOOLS)[0]
    read_call(text[:4_000], TOOLS)
    assert time.perf_counter() - start < 10
