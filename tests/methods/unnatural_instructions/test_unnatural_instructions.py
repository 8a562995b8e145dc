"""Unnatural Instructions: prompts, what is read from completions, and what is kept."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from selfimprove_dagster.conversation import messages_of
from selfimprove_dagster.filters.rules import DECISION_COLUMNS
from selfimprove_dagster.filters.whole import in_parts
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.methods.unnatural_instructions import unnatural_instructions as unnatural
from selfimprove_dagster.methods.unnatural_instructions.dataset import (
    ExampleRules,
    apply_same_words,
    outputs_with_paraphrases,
    with_same_words,
)
from selfimprove_dagster.methods.unnatural_instructions.settings import PROMPTS
from selfimprove_dagster.methods.unnatural_instructions.unnatural_instructions import ElicitedTask
from selfimprove_dagster.prompts import load_prompts

ONE = ElicitedTask("Add.", "1\n2", "A number.", "3")
TWO = ElicitedTask("Name a bird.", "", unnatural.NO_CONSTRAINTS)


TEXTS = load_prompts([PROMPTS], TEXT)
CHATS = load_prompts([PROMPTS], Prompting(chat=True))
SHOTS = [("Sing.", "Let us hear a song.")]


def test_the_prompt_shows_fields_and_no_outputs() -> None:
    assert TEXTS.ask("example", demonstrations=[ONE, TWO]) == (
        "Example 1\nInstruction: Add.\nInput: 1\n2\nConstraints: A number.\n\n"
        "Example 2\nInstruction: Name a bird.\nInput:\nConstraints: None.\n\n"
        "Example 3\n"
    )
    assert TEXTS.stops("example") == ("\n\nExample",)


def test_the_output_and_the_paraphrase_follow_their_prompts() -> None:
    fields = {"instruction": "Add.", "input": "1\n2", "constraints": "A number."}
    assert TEXTS.ask("output", **fields) == (
        "Instruction: Add.\nInput: 1\n2\nConstraints: A number.\nOutput:"
    )
    assert TEXTS.ask("paraphrase", instruction="Add them.", shots=SHOTS) == (
        "Say the same instruction in other words.\n\n"
        "Instruction: Sing.\nRephrased: Let us hear a song.\n\n"
        "Instruction: Add them.\nRephrased:"
    )
    assert TEXTS.stops("output") == ("\n\n",) and TEXTS.stops("paraphrase") == ("\n",)


def test_a_chat_model_is_asked_in_turns() -> None:
    asked = messages_of(CHATS.ask("example", demonstrations=[ONE, TWO]))
    assert [one.role for one in asked] == ["user", "assistant", "user", "assistant", "user"]
    for message, task in ((asked[1], ONE), (asked[3], TWO)):
        read = unnatural.parse_example(message.content, "stop").task
        assert read == ElicitedTask(task.instruction, task.input, task.constraints)
    fields = {"instruction": "Add.", "input": "1\n2", "constraints": "A number."}
    assert messages_of(CHATS.ask("output", **fields)) == [("user", "Add. A number.\n\n1\n2")]
    fields["constraints"] = unnatural.NO_CONSTRAINTS
    assert messages_of(CHATS.ask("output", **fields)) == [("user", "Add.\n\n1\n2")]
    said = messages_of(CHATS.ask("paraphrase", instruction="Add them.", shots=SHOTS))
    assert said[1:] == [
        ("user", "Instruction: Sing."),
        ("assistant", "Let us hear a song."),
        ("user", "Instruction: Add them."),
    ]


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
            "**Instruction**: Add.\n\n**Input**: None\n\n**Constraints**: none",
            ElicitedTask("Add.", "", "None."),
        ),
        (
            "Here is another example:\n\n1. **Instruction:** Add.\n2. **Input:** 1 2\n3. **Constraints:** No.",
            ElicitedTask("Add.", "1 2", "No."),
        ),
        (
            "Instruction: Add.\nInput: 1\nConstraints: No.\n\nI hope this helps!",
            ElicitedTask("Add.", "1", "No."),
        ),
        (
            "### Example 4\n- Instruction: Add.\n- Input: (none)\n- Constraints: One word.",
            ElicitedTask("Add.", "", "One word."),
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
        ('Here is the instruction in other words:\n\n"Sum them up."', "stop", ("Sum them up.", "read")),
        ("**Rephrased:** Sum them up.\n\nThis says the same.", "stop", ("Sum them up.", "read")),
        ("Instruction: **Sum them up.**", "stop", ("Sum them up.", "read")),
        ('Write "a" or "b".', "stop", ('Write "a" or "b".', "read")),
        ("Sum them:", "stop", ("Sum them:", "read")),
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
    contents = {
        "out:1": same,
        "out:2": {**same, "input": "1 and 3"},
        "par:1": same,
        "par:2": {**same, "output": "4"},
    }
    examples = pl.DataFrame(
        [
            {"candidate_id": candidate, "words": unnatural.example_words(content)}
            for candidate, content in contents.items()
        ]
    )
    said = unnatural.first_of_its_words(examples)
    assert said["kept"].to_list() == [True, True, False, True]
    assert said.row(2, named=True)["nearest_id"] == "out:1"


def test_the_first_task_of_a_key_is_one_of_the_pool_or_the_first_that_copies_no_demonstration() -> None:
    def row(id: str, instruction: str, problem: str | None = None) -> dict[str, Any]:
        task = {"instruction": instruction, "input": "", "constraints": "None."}
        return {"id": id, "completion_id": f"gen:{id}", **task, "problem": problem}

    pool = pl.LazyFrame(
        [
            {"id": "task:sing", "instruction": "Sing.", "input": ""},
            {"id": "task:hum", "instruction": "Hum.", "input": ""},
        ]
    )
    rows = [
        row("0", "HUM"),
        row("1", "Add.", "cut off"),
        row("2", "Sing."),
        row("3", "add"),
        row("4", "Add."),
    ]
    shown = [{"id": "task:sing", "role": "demonstration"}]
    drawn = pl.LazyFrame([{"id": one["completion_id"], "parents": shown} for one in rows])
    schema = dict.fromkeys(rows[0], pl.String)
    found = unnatural.with_first(pl.LazyFrame(rows, schema=schema), drawn, pool).collect()
    assert found["candidate_id"].to_list() == ["0", "1", "2", "3", "4"]
    assert found["first"].to_list() == ["task:hum", "3", "task:sing", "3", "3"]
    known = dict(found.select("key", "first").iter_rows())
    kept, decisions = unnatural.filter_examples(found, known)
    assert kept["candidate_id"].to_list() == ["3"]
    dropped = decisions.filter(~pl.col("kept")).select("candidate_id", "rule", "nearest_id").rows()
    assert dropped == [
        ("1", "fields", None),
        ("2", "copy", None),
        ("0", "duplicate", "task:hum"),
        ("4", "duplicate", "3"),
    ]


def answered(task: str, instruction: str, output: str = "3") -> dict[str, Any]:
    texts = {"instruction": instruction, "input": "", "constraints": "None.", "text": f" {output} "}
    return {"id": f"out:{task}", "task_id": task, "finish_reason": "stop", **texts}


def said_again(task: str, number: int, instruction: str, paraphrase: str) -> dict[str, Any]:
    texts = {"instruction": instruction, "paraphrase": paraphrase, "problem": None}
    return {"id": f"para:{task}/{number}", "task_id": task, **texts}


def test_whatever_part_an_example_is_in_the_first_of_its_words_stays_own_words_before_others() -> None:
    outputs = pl.LazyFrame([answered("a", "Add."), answered("b", "Sum up."), answered("c", "Sing.", " ")])
    paraphrases = pl.LazyFrame(
        [
            said_again("a", 0, "Add.", "Sum up."),
            said_again("a", 1, "Add.", "Total it."),
            said_again("b", 0, "Sum up.", "Total it."),
            said_again("gone", 0, "Hum.", "hum"),
        ],
        schema_overrides={"problem": pl.String},
    )
    rules = ExampleRules(paraphrases=2, held_out=(), banned={})
    rows = outputs_with_paraphrases(outputs, paraphrases)
    decided = rules.first_of_their_words(in_parts(rows, "task_id", size=1))
    kept, reasons = [], {}
    for part in in_parts(with_same_words(rows, decided), "task_id", size=1):
        examples, decisions = rules.within_a_task(part)
        stay, on_copies = apply_same_words(examples, part)
        kept += stay.select("candidate_id", "instruction", "output_id").rows()
        dropped = pl.concat([decisions, on_copies]).filter(~pl.col("kept"))
        reasons |= dict(dropped.select("candidate_id", "rule").rows())
    assert sorted(kept) == [
        ("out:a", "Add.", "out:a"),
        ("out:b", "Sum up.", "out:b"),
        ("para:a/1", "Total it.", "out:a"),
    ]
    assert reasons == {
        "para:a/0": "same_example",
        "para:b/0": "same_example",
        "out:c": "empty_output",
        "para:gone/0": "copy",
    }


def test_constraints_that_say_something_come_behind_the_instruction() -> None:
    outputs = pl.LazyFrame([{**answered("a", "Add."), "constraints": "Use digits."}])
    paraphrases = pl.LazyFrame(
        [said_again("a", 0, "Add.", "Sum up.")], schema_overrides={"problem": pl.String}
    )
    rows = outputs_with_paraphrases(outputs, paraphrases).collect()
    examples, _ = ExampleRules(paraphrases=2, held_out=(), banned={}).within_a_task(rows)
    assert examples["instruction"].to_list() == ["Add. Use digits.", "Sum up. Use digits."]
