"""Instances out of completions, in both forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.methods.self_instruct.instances import (
    CUT_OFF,
    MISSING,
    NEXT_TASK,
    OUTSIDE,
    SWAPPED,
    ParsedInstance,
    parse_input_first,
    parse_output_first,
)

Outcome = tuple[str, str] | str
"""Input and output of an instance that is kept, or why one is dropped."""


def outcomes(parsed: list[ParsedInstance]) -> list[Outcome]:
    return [one.dropped or (one.input, one.output) for one in parsed]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Example 1\nInput: a\nOutput: b\nExample 2\nInput: c\nOutput: d", [("a", "b"), ("c", "d")]),
        ("Example 1\nOutput: b\nExample 2\nOutput: d\n\n", [("", "b"), ("", "d")]),
        ("Example 1\nInput:\nOutput: b", [("", "b")]),
        ("Example 1\nInput: a\nOutput:\nExample 2\nInput: c\nOutput: d", [("a", ""), ("c", "d")]),
        (
            "Example 1\nInput: two\nlines\n\nand more\nOutput: 1. so\n2. many\n",
            [("two\nlines\n\nand more", "1. so\n2. many")],
        ),
        ("Input: a\nOutput: b\nInput: c\nOutput: d", [("a", "b"), ("c", "d")]),
        (" Output: b", [("", "b")]),
        ("**Example 1:**\n**Input:** a\n**Output:** b", [("a", "b")]),
        ("## Example #1\ninput 1: a\noutput 1: b\nEXAMPLE 2.\nINPUT: c\nOUTPUT: d", [("a", "b"), ("c", "d")]),
        ("Example 1\r\nInput: a\r\nOutput: b\r\n", [("a", "b")]),
        ("Example 1\nInput: Output: a\nOutput: the Input: b", [("Output: a", "the Input: b")]),
        (
            "Example 1\nInput: a\nOutput: Examples are rare.\nExample words too",
            [("a", "Examples are rare.\nExample words too")],
        ),
        (
            "Example 1\nInput: a\nOutput: Outputs vary.\nInputting 3 helps",
            [("a", "Outputs vary.\nInputting 3 helps")],
        ),
        # What cannot be paired for certain.
        ("Example 1\nOutput: b\nInput: a\nExample 2\nInput: c\nOutput: d", [SWAPPED, ("c", "d")]),
        ("Example 1\nInput: a\nExample 2\nInput: c\nOutput: d", [MISSING.format("output"), ("c", "d")]),
        ("Example 1\nInput: a\nOutput: b\nOutput: c", [SWAPPED]),
        ("Example 1\nOutput: b\nOutput: c", [SWAPPED]),
        ("Example 1\na\nOutput: b", [OUTSIDE]),
        ("Sure, here you go:\nInput: a\nOutput: b", [OUTSIDE, ("a", "b")]),
        ("Sure, here you go:\nExample 1\nInput: a\nOutput: b", [OUTSIDE, ("a", "b")]),
        (
            "**Example 1**\n\n**Input:** a\n\n**Output:** b\n\n**Example 2**\n\n**Input**: (none)\n\n**Output**: c",
            [("a", "b"), ("", "c")],
        ),
        ("### Example 1:\n- Input: a\n- Output: b\nc\n\nd", [("a", "b\nc\n\nd")]),
        ("Input: a\nOutput: b\n\nLet me know if you need more examples!", [("a", "b")]),
        ("I cannot think of any.", [OUTSIDE]),
        (
            "Example 1\nInput: a\nOutput: b\n\nTask: Other\nExample 1\nInput: c\nOutput: d",
            [("a", "b"), NEXT_TASK],
        ),
        ("", []),
        (" \n", []),
        ("Example 1\n", []),
    ],
)
def test_instances_with_the_input_first(text: str, expected: list[Outcome]) -> None:
    assert outcomes(parse_input_first(text, "stop")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Label: yes\nInput: a\nLabel: no\nInput: b", [("a", "yes"), ("b", "no")]),
        ("Class label: yes\nInput: two\nlines\nlabel: no\ninput: b", [("two\nlines", "yes"), ("b", "no")]),
        ("Example 1\nLabel: yes\nInput: a\nExample 2\nLabel: no\nInput: b", [("a", "yes"), ("b", "no")]),
        ("Label: yes\nInput: Output: a", [("Output: a", "yes")]),
        ("Label: yes\nLabel: no\nInput: b", [MISSING.format("input"), ("b", "no")]),
        ("Label: yes\nInput: a\nLabel: no", [("a", "yes"), MISSING.format("input")]),
        ("Label: yes\nInput: a\nInput: b\nLabel: no\nInput: c", [SWAPPED, ("c", "no")]),
        # With the input first throughout, each label would be paired with the next input.
        ("Input: a\nLabel: yes\nInput: b\nLabel: no", [SWAPPED]),
        ("Label: yes\nInput: a\n\nTask: Other\nLabel: no\nInput: b", [("a", "yes"), NEXT_TASK]),
        ("**Label:** yes\n**Input:** a\n\n**Label:** no\n**Input:** b", [("a", "yes"), ("b", "no")]),
        ("Label: yes\n\nInput: a\n\nThese examples show both labels.", [("a", "yes")]),
        ("yes", [OUTSIDE]),
    ],
)
def test_instances_with_the_label_first(text: str, expected: list[Outcome]) -> None:
    assert outcomes(parse_output_first(text, "stop")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Example 1\nInput: a\nOutput: b\nExample 2\nInput: c\nOutput: d", [("a", "b"), CUT_OFF]),
        ("Example 1\nInput: a\nOutput: b\nExample 2\nInput: c", [("a", "b"), CUT_OFF]),
        ("Example 1\nInput: a\nOutput: b\nExample 2\n", [("a", "b")]),
        ("Example 1\nInput: a\nOutput: b\n\nTask: Oth", [("a", "b"), NEXT_TASK]),
        ("", []),
    ],
)
def test_what_the_token_limit_cut_off_is_dropped(text: str, expected: list[Outcome]) -> None:
    assert outcomes(parse_input_first(text, "length")) == expected


def test_a_label_whose_input_was_cut_off_is_dropped() -> None:
    text = "Label: yes\nInput: a\nLabel: no\nInput: b"
    assert outcomes(parse_output_first(text, "length")) == [("a", "yes"), CUT_OFF]


@given(
    st.lists(
        st.sampled_from(["Example 1", "Input: a", "Output: b", "Label: c", "Task: d", "free", "", "Input:"]),
        max_size=10,
    ).map("\n".join),
    st.sampled_from([parse_input_first, parse_output_first]),
    st.sampled_from(["stop", "length"]),
)
def test_places_are_in_order_and_hold_what_was_read(
    text: str, parse: Callable[[str, str], list[ParsedInstance]], finish_reason: str
) -> None:
    before = 0
    for one in parse(text, finish_reason):
        assert before <= one.start < one.end <= len(text)
        assert one.input in text[one.start : one.end] and one.output in text[one.start : one.end]
        before = one.end
