"""The prompts of Self-Instruct, letter by letter, and the demonstrations that they show."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.conversation import messages_of
from selfimprove_dagster.families.tasks.tasks import Instance, Task
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.methods.self_instruct import prompts
from selfimprove_dagster.methods.self_instruct.instances import parse_input_first, parse_output_first
from selfimprove_dagster.methods.self_instruct.shots import (
    CLASSIFICATION_SHOTS,
    INPUT_FIRST_SHOTS,
    OUTPUT_FIRST_SHOTS,
)
from selfimprove_dagster.prompts import load_prompts

TEXTS = load_prompts([prompts.PROMPTS], TEXT)
CHATS = load_prompts([prompts.PROMPTS], Prompting(chat=True))


def listing(instructions: list[str]) -> dict[str, Any]:
    return {"instructions": [prompts.listed(one) for one in instructions], "last": 15}


def test_the_generation_prompt_is_a_list_and_the_next_number() -> None:
    assert TEXTS.ask("generation", **listing(["Name a bird.", "Add\n these:"])) == (
        "Here is a series of tasks.\n\n1. Name a bird.\n2. Add these\n3."
    )
    assert TEXTS.ask("generation", **listing([])) == "Here is a series of tasks.\n\n1."
    assert TEXTS.completion("generation", "Sing.") == " Sing."


def test_a_chat_model_goes_on_with_its_own_list() -> None:
    asked = messages_of(CHATS.ask("generation", **listing(["Name a bird.", "Add\n these:"])))
    assert [one.role for one in asked] == ["user", "assistant", "user"]
    assert asked[1].content == "1. Name a bird.\n2. Add these"
    assert "the tasks 3 to 15" in asked[2].content
    assert [one.role for one in messages_of(CHATS.ask("generation", **listing([])))] == ["user"]
    assert CHATS.completion("generation", "Sing.") == "Sing."


def test_it_stops_at_the_sixteenth_task_and_not_at_any_sixteen() -> None:
    completion = " Tell what happened in 1916.\n10. Name a bird.\n16. Sing."
    cut = min(completion.find(stop) for stop in prompts.generation_stops() if stop in completion)
    assert completion[:cut] == " Tell what happened in 1916.\n10. Name a bird."
    assert "\n12." in prompts.generation_stops(12)


SHOTS = [{"instruction": "Odd or even?", "answer": "Yes"}, {"instruction": "Sing.", "answer": "No"}]


def test_the_classification_prompt() -> None:
    assert TEXTS.ask("classification", instruction=" Add. ", shots=SHOTS) == (
        "Does the task have a small set of labels to choose from?\n\n"
        "Task: Odd or even?\nLabels: Yes\n\n"
        "Task: Sing.\nLabels: No\n\n"
        "Task: Add.\nLabels:"
    )
    assert TEXTS.completion("classification", "Yes") == " Yes"
    asked = messages_of(CHATS.ask("classification", instruction=" Add. ", shots=SHOTS))
    assert asked[1:] == [
        ("user", "Task: Odd or even?"),
        ("assistant", "Yes"),
        ("user", "Task: Sing."),
        ("assistant", "No"),
        ("user", "Task: Add."),
    ]
    assert CHATS.completion("classification", "Yes") == "Yes"


@pytest.mark.parametrize(
    ("form", "task", "examples", "text"),
    [
        (
            "input_first",
            "Double it.",
            prompts.input_first([Instance("1\n2", "3"), Instance("", "4")]),
            "Write examples for each task.\n\n"
            "Task: Add.\nExample 1\nInput: 1\n2\nOutput: 3\nExample 2\nOutput: 4\n\n"
            "Task: Double it.\n",
        ),
        (
            "output_first",
            "Short or long?",
            prompts.output_first([Instance("7", "odd"), Instance("8", "even")]),
            "Write examples for each task, the label first.\n\n"
            "Task: Add.\nLabel: odd\nInput: 7\nLabel: even\nInput: 8\n\n"
            "Task: Short or long?\n",
        ),
    ],
)
def test_the_instance_prompts(form: str, task: str, examples: str, text: str) -> None:
    shots = [{"instruction": "Add.", "examples": examples}]
    assert TEXTS.ask(form, instruction=f" {task}\n", shots=shots) == text
    assert TEXTS.stops(form) == ("\n\nTask:",) and CHATS.stops(form) == ()
    asked = messages_of(CHATS.ask(form, instruction=f" {task}\n", shots=shots))
    assert asked[1:] == [("user", "Task: Add."), ("assistant", examples), ("user", f"Task: {task}")]


def test_demonstrations_are_six_human_and_two_of_the_model() -> None:
    human, machine = [f"h{n}" for n in range(20)], [f"m{n}" for n in range(20)]
    drawn = [prompts.choose_demonstrations(human, machine, seed) for seed in range(50)]
    assert all(sum(one[0] == "h" for one in chosen) == 6 for chosen in drawn)
    assert all(len(set(chosen)) == 8 for chosen in drawn)
    assert {one for chosen in drawn for one in chosen} == {*human, *machine}
    assert any(chosen[0][0] == "m" for chosen in drawn) and any(chosen[0][0] == "h" for chosen in drawn)
    assert drawn[3] == prompts.choose_demonstrations(human, machine, 3)


@pytest.mark.parametrize(
    ("human", "machine", "from_human", "from_machine"),
    [(20, 0, 8, 0), (20, 1, 7, 1), (20, 2, 6, 2), (5, 20, 5, 3), (0, 20, 0, 8), (3, 2, 3, 2), (0, 0, 0, 0)],
)
def test_one_side_fills_up_for_the_other(
    human: int, machine: int, from_human: int, from_machine: int
) -> None:
    chosen = prompts.choose_demonstrations(
        [f"h{n}" for n in range(human)], [f"m{n}" for n in range(machine)], 0
    )
    sides = [one[0] for one in chosen]
    assert (sides.count("h"), sides.count("m")) == (from_human, from_machine)


def test_shots_are_as_many_as_in_the_paper() -> None:
    answers = [answer for _, answer in CLASSIFICATION_SHOTS]
    assert (answers.count(True), answers.count(False)) == (12, 19)
    assert set(answers[:2]) == {True, False}
    assert len({text for text, _ in CLASSIFICATION_SHOTS}) == 31
    assert all(task.is_classification is False and task.instances for task in INPUT_FIRST_SHOTS)
    assert any(not one.input for task in INPUT_FIRST_SHOTS for one in task.instances)
    assert all(task.is_classification is True and len(task.instances) > 1 for task in OUTPUT_FIRST_SHOTS)


@pytest.mark.parametrize("task", INPUT_FIRST_SHOTS, ids=lambda task: task.instruction)
def test_input_first_shots_are_read_as_they_are_written(task: Task) -> None:
    read = parse_input_first(prompts.input_first(task.instances), "stop")
    assert [(one.input, one.output) for one in read] == [(one.input, one.output) for one in task.instances]
    assert all(one.dropped is None for one in read)


@pytest.mark.parametrize("task", OUTPUT_FIRST_SHOTS, ids=lambda task: task.instruction)
def test_output_first_shots_are_read_as_they_are_written(task: Task) -> None:
    read = parse_output_first(prompts.output_first(task.instances), "stop")
    assert [(one.input, one.output) for one in read] == [(one.input, one.output) for one in task.instances]
    assert all(one.dropped is None for one in read)


VALUES = st.lists(st.text(alphabet="ab1. ,:-", min_size=1).map(str.strip), min_size=1, max_size=3).map(
    lambda lines: "\n".join(line for line in lines if line) or "x"
)


@given(st.lists(st.tuples(VALUES | st.just(""), VALUES), min_size=1, max_size=5))
def test_what_is_written_is_read(pairs: list[tuple[str, str]]) -> None:
    instances = [Instance(*pair) for pair in pairs]
    read = parse_input_first(prompts.input_first(instances), "stop")
    assert [(one.input, one.output) for one in read if one.dropped is None] == pairs
    labelled = [one for one in instances if one.input]
    read = parse_output_first(prompts.output_first(labelled), "stop")
    assert [(one.input, one.output) for one in read if one.dropped is None] == [
        (one.input, one.output) for one in labelled
    ]
