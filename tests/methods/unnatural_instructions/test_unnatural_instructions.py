"""Unnatural Instructions: prompts, what is read from completions, and what is kept."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from selfimprove_dagster.filters.rules import DECISION_COLUMNS
from selfimprove_dagster.methods.unnatural_instructions import unnatural_instructions as unnatural
from selfimprove_dagster.methods.unnatural_instructions.unnatural_instructions import ElicitedTask

ONE = ElicitedTask("Add.", "1\n2", "A number.", "3")
TWO = ElicitedTask("Name a bird.", "", "")


def test_the_prompt_shows_fields_and_no_outputs() -> None:
    assert unnatural.example_prompt([ONE, TWO]) == (
        "Example 1\nInstruction: Add.\nInput: 1\n2\nConstraints: A number.\n\n"
        "Example 2\nInstruction: Name a bird.\nInput:\nConstraints: None.\n\n"
        "Example 3\n"
    )


def test_the_output_and_the_paraphrase_follow_their_prompts() -> None:
    assert unnatural.output_prompt(ONE) == ("Instruction: Add.\nInput: 1\n2\nConstraints: A number.\nOutput:")
    assert unnatural.paraphrase_prompt("Add\nthem.", [("Sing.", "Let us hear a song.")]) == (
        "Say the same instruction in other words.\n\n"
        "Instruction: Sing.\nRephrased: Let us hear a song.\n\n"
        "Instruction: Add them.\nRephrased:"
    )
    assert unnatural.PARAPHRASE_SHOTS[0][0] in unnatural.paraphrase_prompt("Add.")


def test_three_different_seeds_are_shown() -> None:
    seeds = [f"seed {n}" for n in range(15)]
    drawn = [unnatural.choose_demonstrations(seeds, seed) for seed in range(60)]
    assert all(len(set(chosen)) == 3 for chosen in drawn)
    assert {one for chosen in drawn for one in chosen} == set(seeds)
    assert drawn[5] == unnatural.choose_demonstrations(seeds, 5)
    assert len(unnatural.choose_demonstrations(seeds[:2], 0)) == 2


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("Instruction: Add.\nInput: 1 2\nConstraints: None.", ElicitedTask("Add.", "1 2", "None.")),
        (
            "Instruction: Add\nthem.\nInput: 1\n\n2\nConstraints: A number.\nNo words.\n\n",
            ElicitedTask("Add\nthem.", "1\n\n2", "A number.\nNo words."),
        ),
        ("instruction: Add.\nINPUT:\nConstraint: None.", ElicitedTask("Add.", "", "None.")),
        ("**Instruction:** Add.\n**Input:** 1\n**Constraints:** No.", ElicitedTask("Add.", "1", "No.")),
        ("Instruction: Add.\nInput: 1\nConstraints: No.\nOutput: 3", ElicitedTask("Add.", "1", "No.")),
        (
            "Instruction: Add.\nInput: 1\nConstraints: No.\n\nExample 5\nInstruction: Sing.",
            ElicitedTask("Add.", "1", "No."),
        ),
        ("Example 4\nInstruction: Add.\nInput: 1\nConstraints: No.", ElicitedTask("Add.", "1", "No.")),
        (
            "Instruction: Add.\nInput: 1\nConstraints: No.\nInstruction: Sing.\nInput: 2\nConstraints: x",
            ElicitedTask("Add.", "1", "No."),
        ),
        (
            "Instruction: Find the Input: of it.\nInput: Examples\nConstraints: 1",
            ElicitedTask("Find the Input: of it.", "Examples", "1"),
        ),
    ],
)
def test_a_task_is_read_field_by_field(text: str, task: ElicitedTask) -> None:
    parsed = unnatural.parse_example(text, "stop")
    assert (parsed.task, parsed.dropped) == (task, None)


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("Instruction: Add.\nInput: 1", "stop", "there is no constraints field"),
        ("Input: 1", "stop", "there is no instruction and no constraints field"),
        ("Add these numbers.", "stop", "there is no instruction and no input and no constraints field"),
        ("", "stop", "there is no instruction and no input and no constraints field"),
        ("Instruction:\nInput: 1\nConstraints: No.", "stop", "empty: instruction"),
        ("Instruction:\nInput: 1\nConstraints:", "stop", "empty: instruction and constraints"),
        ("Instruction: Add.\nInput: 1\nConstraints: The outp", "length", "cut off at the token limit"),
        ("Instruction: Add.\nInput: 1\n\nExample 5\nConstraints: x", "stop", "there is no constraints field"),
    ],
)
def test_what_is_no_task_says_why(text: str, finish_reason: str, reason: str) -> None:
    parsed = unnatural.parse_example(text, finish_reason)
    assert (parsed.task, parsed.dropped) == (None, reason)


def test_only_what_was_cut_off_itself_is_dropped() -> None:
    text = "Instruction: Add.\nInput: 1\nConstraints: No.\nOutput: thr"
    assert unnatural.parse_example(text, "length").task == ElicitedTask("Add.", "1", "No.")


@pytest.mark.parametrize(
    ("text", "finish_reason", "parsed"),
    [
        (" Sum them up.", "stop", ("Sum them up.", "read")),
        (" Sum them up.\n\nInstruction: x", "length", ("Sum them up.", "read")),
        (" Sum them u", "length", (None, "cut off at the token limit")),
        ("\n\n Sum them up. \nInstruction: x", "stop", ("Sum them up.", "read")),
        ("\n ", "stop", (None, "nothing was said")),
    ],
)
def test_paraphrases_are_one_line(text: str, finish_reason: str, parsed: tuple[str | None, str]) -> None:
    assert unnatural.parse_paraphrase(text, finish_reason) == parsed


def example(candidate: str, key: str | None, shown: list[str], problem: str | None = None) -> dict[str, Any]:
    return {"candidate_id": candidate, "key": key, "demonstrations": shown, "problem": problem}


def test_flaws_copies_and_duplicates_are_dropped_with_a_decision() -> None:
    key = unnatural.example_key
    candidates = pl.DataFrame(
        [
            example("gen:0", key("Add.", "1 2"), [key("Sing.", "")]),
            example("gen:1", None, [key("Sing.", "")], "there is no input field"),
            example("gen:2", key("sing", " "), [key("Sing.", "")]),
            example("gen:3", key("Sing.", ""), [key("Add.", "7")]),
            example("gen:4", key("ADD", "1  2"), [key("Sing.", "")]),
            example("gen:5", key("Add.", "1 3"), [key("Sing.", "")]),
        ]
    )
    kept, decisions = unnatural.filter_examples(candidates, {key("Sing.", ""): "seed:sing"})
    assert kept["candidate_id"].to_list() == ["gen:0", "gen:5"]
    assert dict(decisions.schema) == DECISION_COLUMNS
    dropped = decisions.filter(~pl.col("kept")).select("candidate_id", "rule", "reason", "nearest_id").rows()
    assert dropped == [
        ("gen:1", "fields", "there is no input field", None),
        ("gen:2", "copy", "copies a demonstration of its prompt", None),
        ("gen:3", "duplicate", "the same instruction and input as seed:sing", "seed:sing"),
        ("gen:4", "duplicate", "the same instruction and input as gen:0", "gen:0"),
    ]


def test_at_most_two_paraphrases_that_say_something_else() -> None:
    rows = [
        ("p:0", "one", "Add.", "add", None),
        ("p:1", "one", "Add.", "Sum up.", None),
        ("p:2", "one", "Add.", "sum up", None),
        ("p:3", "one", "Add.", None, "nothing was said"),
        ("p:4", "one", "Add.", "Total it.", None),
        ("p:5", "one", "Add.", "Put together.", None),
        ("p:6", "two", "Total.", "Sum up.", None),
    ]
    columns = ["candidate_id", "task_id", "instruction", "paraphrase", "problem"]
    candidates = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    kept, decisions = unnatural.filter_paraphrases(candidates)
    assert kept.columns == columns
    assert kept["candidate_id"].to_list() == ["p:1", "p:4", "p:6"]
    assert dict(decisions.filter(~pl.col("kept")).select("candidate_id", "reason").rows()) == {
        "p:0": "the instruction itself",
        "p:2": "the same paraphrase as p:1",
        "p:3": "nothing was said",
        "p:5": "number 3 of its task, at most 2",
    }


def test_of_examples_that_say_the_same_the_first_stays() -> None:
    same = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    examples = pl.DataFrame(
        [
            {"candidate_id": "out:1", **same},
            {"candidate_id": "out:2", **same, "input": "1 and 3"},
            {"candidate_id": "par:1", **same},
            {"candidate_id": "par:2", **same, "output": "4"},
        ]
    )
    said = unnatural.first_of_its_words(examples)
    assert said["kept"].to_list() == [True, True, False, True]
    assert said.row(2, named=True)["nearest_id"] == "out:1"
