"""Tasks and the texts on which following instructions is learnt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.families.tasks.tasks import (
    TEMPLATES,
    Instance,
    normalise_instruction,
    task_prompt,
    template_by_lot,
    training_text,
)
from selfimprove_dagster.text import one_line


def test_the_first_template_is_that_of_evaluation() -> None:
    assert training_text(" Add them.\n", Instance(" 3 and 4\n", "7")) == (
        "Instruction: Add them.\nInput: 3 and 4\nAnswer:",
        " 7",
    )
    assert training_text("Name a bird.", Instance("", "owl")) == (
        "Instruction: Name a bird.\nAnswer:",
        " owl",
    )


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
def test_every_template_shows_what_there_is_and_nothing_else(template: int) -> None:
    prompt, completion = training_text("Add {them}.", Instance("{3}\nand 4", " 7\n"), template)
    assert "Add {them}." in prompt and "{3}\nand 4" in prompt
    assert "7" not in prompt and completion == " 7"
    assert prompt == prompt.rstrip(), "the space belongs to the completion"
    without = task_prompt("Add {them}.", " \n", template)
    assert "Add {them}." in without and "Input" not in without and "\n\n\n" not in without


def test_templates_are_different_and_drawn_by_what_the_instance_says() -> None:
    assert len(TEMPLATES) >= 5
    assert len({task_prompt("a", "b", n) for n in range(len(TEMPLATES))}) == len(TEMPLATES)
    assert len({task_prompt("a", "", n) for n in range(len(TEMPLATES))}) == len(TEMPLATES)
    instances = [Instance(f"input {n}", "output") for n in range(600)]
    drawn = [template_by_lot("Do it.", one, seed=0) for one in instances]
    assert all(60 < drawn.count(n) < 140 for n in range(len(TEMPLATES)))
    assert drawn != [template_by_lot("Do it.", one, seed=1) for one in instances]
    assert drawn != [template_by_lot("Do that.", one, seed=0) for one in instances]
    assert template_by_lot("Do it.", Instance("input 7", "output"), seed=0) == drawn[7]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Name a bird.", " name  a\nBIRD", True),
        ("Name a bird:", "Name a bird . ", True),
        ("Straße nennen", "STRASSE nennen", True),
        ("Ｎame a bird", "Name a bird", True),
        ("Name a bird?", "Name a bird", False),
        ("Name a bird.", "Name two birds.", False),
        ("Add 1.5", "Add 15", False),
    ],
)
def test_what_counts_as_the_same_instruction(one: str, other: str, same: bool) -> None:
    assert (normalise_instruction(one) == normalise_instruction(other)) is same


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_instruction(text)
    assert normalise_instruction(once) == once


@given(st.text(alphabet="ab \t\n\r\u2003", max_size=20))
def test_one_line_is_one_line(text: str) -> None:
    assert one_line(text).split(" ") == (text.split() or [""])
