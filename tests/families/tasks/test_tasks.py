"""Tasks and the texts on which following instructions is learnt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.conversation import messages_of
from selfimprove_dagster.families.tasks.prompts import PROMPTS, TEMPLATES, sampled_template
from selfimprove_dagster.families.tasks.tasks import Instance, normalise_instruction
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.text import one_line

TEXTS = load_prompts([PROMPTS], TEXT)
CHATS = load_prompts([PROMPTS], Prompting(chat=True))


@pytest.mark.parametrize(
    ("template", "with_input", "without"),
    [
        (0, "Instruction: Add {them}.\nInput: {3}\nand 4\nAnswer:", "Instruction: Add {them}.\nAnswer:"),
        (1, "Add {them}.\n\n{3}\nand 4\n\nAnswer:", "Add {them}.\n\nAnswer:"),
        (2, "Add {them}.\nGiven: {3}\nand 4\nResponse:", "Add {them}.\nResponse:"),
        (
            3,
            "### Task\nAdd {them}.\n\n### Input\n{3}\nand 4\n\n### Output:",
            "### Task\nAdd {them}.\n\n### Output:",
        ),
        (4, "Task: Add {them}.\nInput: {3}\nand 4\nOutput:", "Task: Add {them}.\nOutput:"),
        (5, "User: Add {them}.\n{3}\nand 4\nAssistant:", "User: Add {them}.\nAssistant:"),
    ],
)
def test_the_templates(template: int, with_input: str, without: str) -> None:
    name = TEMPLATES[template]
    assert TEXTS.ask(name, instruction=" Add {them}.\n", input=" {3}\nand 4\n") == with_input
    assert TEXTS.ask(name, instruction="Add {them}.", input=" \n") == without
    assert TEXTS.completion(name, "7") == " 7"
    asked = messages_of(CHATS.ask(name, instruction=" Add {them}.\n", input="{3}\nand 4"))
    assert asked == [("user", "Add {them}.\n\n{3}\nand 4")]
    assert messages_of(CHATS.ask(name, instruction="Add.", input="")) == [("user", "Add.")]
    assert CHATS.completion(name, "7") == "7"


def test_templates_are_chosen_by_what_the_instance_says() -> None:
    instances = [Instance(f"input {n}", "output") for n in range(600)]
    drawn = [sampled_template("Do it.", one, seed=0) for one in instances]
    assert all(60 < drawn.count(name) < 140 for name in TEMPLATES)
    assert drawn != [sampled_template("Do it.", one, seed=1) for one in instances]
    assert drawn != [sampled_template("Do that.", one, seed=0) for one in instances]
    assert sampled_template("Do it.", Instance("input 7", "output"), seed=0) == drawn[7]


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
