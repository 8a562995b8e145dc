"""Tasks out of completions: every good one comes out, and nothing is lost without a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.messy_completions import MESSY_COMPLETIONS, Messy

from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.methods.self_instruct.parsing import (
    BLANK,
    CUT_OFF,
    NOT_INSTRUCTION,
    OUTSIDE,
    parse_tasks,
)
from selfimprove_dagster.methods.self_instruct.prompts import PROMPTS, listed
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.text import one_line

TEXTS = load_prompts([PROMPTS], TEXT)


def kept(text: str, finish_reason: str = "stop", first_number: int = 9) -> list[str]:
    pieces = parse_tasks(text, finish_reason, first_number)
    return [piece.instruction for piece in pieces if piece.dropped is None]


def reasons(text: str, finish_reason: str = "stop") -> list[tuple[str, str]]:
    return [(piece.instruction, piece.dropped) for piece in parse_tasks(text, finish_reason) if piece.dropped]


@pytest.mark.parametrize("messy", MESSY_COMPLETIONS, ids=lambda messy: messy.what)
def test_messy_completions_give_their_tasks(messy: Messy) -> None:
    assert kept(messy.text, messy.finish_reason, messy.first_number) == list(messy.tasks)


@pytest.mark.parametrize("messy", MESSY_COMPLETIONS, ids=lambda messy: messy.what)
def test_every_piece_names_its_place(messy: Messy) -> None:
    before = 0
    for piece in parse_tasks(messy.text, messy.finish_reason, messy.first_number):
        assert before <= piece.start <= piece.end
        assert one_line(messy.text[piece.start : piece.end]) == one_line(piece.instruction)
        before = piece.end


def test_what_is_no_task_says_why() -> None:
    assert reasons(" Name a tool.\n10.\n11. Judge the pl", "length") == [
        ("", BLANK),
        ("Judge the pl", CUT_OFF),
    ]
    assert reasons("Sure, here they are:\n9. Name a tool.\n\nShall I go on?") == [
        ("Sure, here they are:", OUTSIDE),
        ("Shall I go on?", OUTSIDE),
    ]
    assert reasons(" Add.\nInput: 3\nOutput: 4\n10. Name a tool.") == [
        ("Input: 3\nOutput: 4", NOT_INSTRUCTION)
    ]


WORDS = st.lists(
    st.sampled_from(["name", "three", "towns", "über", "don't", "α", "no."]), min_size=1, max_size=6
)


@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=12), st.integers(0, 10))
def test_what_a_prompt_lists_is_what_parsing_finds(instructions: list[str], shown: int) -> None:
    demonstrations = ["Demonstrate."] * shown
    prompt = TEXTS.ask("generation", instructions=demonstrations)
    whole = TEXTS.ask("generation", instructions=[*demonstrations, *map(listed, instructions)])
    completion = whole.removeprefix(prompt)
    assert kept(completion, "stop", shown + 1) == instructions
    assert kept(completion[:-3], "length", shown + 1) == instructions[:-1]


@given(st.text(alphabet='ab1290.:)-* \n`"', max_size=80), st.sampled_from(["stop", "length"]))
def test_no_character_that_matters_is_lost(text: str, finish_reason: str) -> None:
    pieces = parse_tasks(text, finish_reason)
    covered = "".join(text[piece.start : piece.end] for piece in pieces)
    assert "".join(filter(str.isalpha, covered)) == "".join(filter(str.isalpha, text))
    assert all(piece.instruction or piece.dropped for piece in pieces)


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("9. Name a tool.\n10. Sing a song.", ["Name a tool.", "Sing a song."]),
        (
            "Here are the tasks:\n\n1. **Name a tool.**\n\n2. Sing a song.\n\nLet me know if you need more!",
            ["Name a tool.", "Sing a song."],
        ),
        ("Tasks 9 to 10:\n\n1) Name a tool.\n2) Sing a song.", ["Name a tool.", "Sing a song."]),
        ("**Tasks:**\n\n- Name a tool.\n- Sing a song.", ["Name a tool.", "Sing a song."]),
        ("Sure.\n\n**Task 9:** Name a tool.\n\n**Task 10:** Sing.", ["Name a tool.", "Sing."]),
        ("7. Name a tool.", ["Name a tool."]),
        ("I am sorry, but I cannot do this.", []),
        ("", []),
    ],
)
def test_the_list_of_a_chat_model(text: str, tasks: list[str]) -> None:
    pieces = parse_tasks(text, "stop", answers=True)
    assert [piece.instruction for piece in pieces if piece.dropped is None] == tasks
    assert all(piece.dropped in (None, OUTSIDE, BLANK) for piece in pieces)
