"""The embedded task model: its world of tasks, a solver, pools, and what there is to elicit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster import embedded
from selfimprove_dagster.families.tasks.prompts import PROMPTS, TEMPLATES
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.methods.self_instruct import prompts
from selfimprove_dagster.methods.unnatural_instructions.settings import PROMPTS as UNNATURAL_PROMPTS
from selfimprove_dagster.methods.unnatural_instructions.unnatural_instructions import parse_example
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.recipes import task_grammar as world
from selfimprove_dagster.recipes import task_texts
from selfimprove_dagster.recipes.task_families import FAMILIES, Family

FEW_SHOT_FLOOR = 0.60
ZERO_SHOT_BAND = (0.15, 0.40)

SOLVED = (
    ("pick_word", "Please name the second word in the list.", "dog cup red", "cup"),
    ("drop_word", "Remove the last word from the list.", "dog cup red", "dog cup"),
    ("reverse_words", "Put the words in reverse order", "dog cup red", "red cup dog"),
    ("count_words", "how many words are in the list?", "dog cup red", "3"),
    ("first_alphabetically", "Which word comes first alphabetically?", "dog cup", "cup"),
    ("remove_word", "Give all the words except cup.", "dog cup red", "dog red"),
    ("append_word", "Add hen to the end of the list.", "dog cup", "dog cup hen"),
    ("replace_word", "Replace dog with hen.", "dog cup", "hen cup"),
    ("remove_repeats", "Delete the duplicates.", "dog cup dog", "dog cup"),
    ("join_words", "Join the words with a dash.", "dog cup", "dog-cup"),
    ("first_letters", "What is the first letter of each word?", "dog cup", "d c"),
    ("plurals", "Make the words plural.", "mouse cup", "mice cups"),
    ("opposites", "Give the opposite of every word.", "hot old", "cold new"),
    ("keep_kind", "Keep only the animals.", "dog cup hen", "dog hen"),
    ("count_kind", "Count the animals in the list.", "dog cup hen", "2"),
    ("contains_word", "Is cup in the list?", "dog red", "No"),
    ("longer_list", "Is the list longer than two words?", "dog cup red", "Yes"),
    ("same_ends", "Is the first word the same as the last?", "dog cup dog", "Yes"),
    ("which_kind", "Is it an animal or a colour?", "red", "colour"),
    ("of_kind", "Is the word a food?", "dog", "No"),
    ("repeat_word", "Repeat the word three times.", "dog", "dog dog dog"),
    ("pick_number", "Find the last number in the list.", "4 17 9", "9"),
    ("largest_number", "Find the maximum.", "4 17 9", "17"),
    ("smallest_number", "What is the lowest number?", "4 17 9", "4"),
    ("sort_up", "Sort the numbers from small to large.", "4 17 9", "4 9 17"),
    ("sort_down", "Put the numbers in falling order.", "4 17 9", "17 9 4"),
    ("add_number", "Add seven to the number.", "14", "21"),
    ("subtract_number", "Take 7 from the number.", "14", "7"),
    ("parity", "Is the number odd or even?", "14", "even"),
    ("larger_than", "Is the number larger than 20?", "14", "No"),
    ("number_in_words", "Spell out the number.", "42", "forty-two"),
    ("number_in_digits", "Write the number in digits.", "forty-two", "42"),
    ("pick_in_sentence", "Give the third word of the sentence.", "the red fox sees the cup", "fox"),
    ("kind_in_sentence", "Which colour is in the text?", "the red fox sees the cup", "red"),
    ("past_tense", "Put the sentence into the past.", "the red fox sees the cup", "the red fox saw the cup"),
    ("negative", "Negate the text.", "the red fox sees the cup", "the red fox does not see the cup"),
    ("word_in_sentence", "Does the text mention cup?", "the red fox sees the cup", "Yes"),
    ("count_from_to", "Count from 9 to 6.", "", "9 8 7 6"),
    ("write_times", "Write the word dog two times.", "", "dog dog"),
)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def evaluation() -> list[dict[str, Any]]:
    return read_lines(embedded.TASK_EVALUATION)


@pytest.fixture(scope="module")
def seeds() -> list[dict[str, Any]]:
    return read_lines(embedded.TASK_SEEDS)


@pytest.mark.parametrize(("family", "instruction", "given", "output"), SOLVED, ids=[row[0] for row in SOLVED])
def test_every_family_is_solved(family: str, instruction: str, given: str, output: str) -> None:
    asked = world.recognise(instruction)
    assert asked is not None
    assert asked.family.name == family
    assert world.solve(instruction, given) == output


def test_every_family_has_its_row() -> None:
    assert [row[0] for row in SOLVED] == [family.name for family in FAMILIES]


@given(st.integers(0, 2**32), st.sampled_from(FAMILIES), st.sampled_from(["training", "evaluation"]))
def test_what_is_drawn_is_recognised_and_solved(seed: int, family: Family, split: world.Split) -> None:
    example = world.draw_example(Random(seed), family=family, split=split)
    assert world.recognise(example.instruction) == example.asked
    assert world.solve(example.instruction, example.input) == example.output
    assert world.is_held_out(example.instruction, example.input) == (split == "evaluation")
    readers = {other.name for other, pattern in world._PATTERNS if pattern.fullmatch(example.instruction)}
    assert readers == {family.name}


@given(st.integers(0, 2**32))
def test_other_words_ask_for_the_same(seed: int) -> None:
    rng = Random(seed)
    example = world.draw_example(rng)
    again = world.phrase(rng, example.asked)
    assert world.solve(again.upper() if seed % 2 else again, example.input) == example.output


def test_a_verb_from_another_family_is_recognised() -> None:
    assert world.solve("Please return the number in digits.", "forty-two") == "42"
    assert world.solve("Tell me the opposite of the text with not.", "the hen sees the key") == (
        "the hen does not see the key"
    )


@given(st.text(), st.text())
def test_any_text_is_answered_or_not_of_this_world(instruction: str, given: str) -> None:
    assert world.solve(instruction, given) is None


@pytest.mark.parametrize(
    ("instruction", "given"),
    [
        ("Give the third word of the list.", "dog cup"),
        ("Add seven to the number.", "dog"),
        ("Give the opposite of every word.", "dog cup"),
        ("Remove cup from the list.", "dog hen"),
        ("Count from 9 to 6.", "9"),
        ("Write the last word of the", "dog cup"),
        ("Is the word an animal?", "table cup"),
    ],
)
def test_what_cannot_be_done_has_no_answer(instruction: str, given: str) -> None:
    assert world.solve(instruction, given) is None


def test_there_are_thousands_of_instructions() -> None:
    rng = Random(0)
    assert len({world.draw_example(rng).instruction for _ in range(8_000)}) > 4_000


def test_classification_is_what_has_labels() -> None:
    assert 20 <= len(FAMILIES) <= 40
    rng = Random(0)
    for family in FAMILIES:
        outputs = {world.draw_example(rng, family=family).output for _ in range(60)}
        labels = {"Yes", "No", "odd", "even", "animal", "food", "colour", "thing"}
        assert (outputs <= labels) == family.classifies, family.name


@given(st.integers(0, 2**32))
def test_training_texts_hold_nothing_of_the_evaluation(seed: int) -> None:
    rng = Random(seed)
    text = "".join(part for part, _ in task_texts.tasks_with_examples(rng))
    for block in text.split("\n\n")[1:]:
        instruction = block.splitlines()[0].removeprefix("Task: ")
        inputs = [line.removeprefix("Input: ") for line in block.splitlines() if line.startswith("Input: ")]
        assert not any(world.is_held_out(instruction, given) for given in inputs or [""])


def test_seed_tasks_are_true(seeds: list[dict[str, Any]]) -> None:
    assert len(seeds) >= 40
    assert len({seed["id"] for seed in seeds}) == len(seeds)
    for seed in seeds:
        assert set(seed) == {"id", "name", "instruction", "instances", "is_classification"}
        asked = world.recognise(seed["instruction"])
        assert asked is not None
        assert asked.family.classifies == seed["is_classification"]
        assert 1 <= len(seed["instances"]) <= 3
        for instance in seed["instances"]:
            assert world.solve(seed["instruction"], instance["input"]) == instance["output"]
            assert not world.is_held_out(seed["instruction"], instance["input"])


def test_evaluation_is_true_held_out_and_of_every_family(evaluation: list[dict[str, Any]]) -> None:
    assert len(evaluation) >= 600
    assert {row["family"] for row in evaluation} == {family.name for family in FAMILIES}
    assert len({(row["instruction"], row["input"]) for row in evaluation}) == len(evaluation)
    for row in evaluation:
        assert world.solve(row["instruction"], row["input"]) == row["output"]
        assert world.is_held_out(row["instruction"], row["input"])


def test_the_prompts_are_those_of_the_contract() -> None:
    assert task_texts.zero_shot_prompt("Say it.", "dog") == "Instruction: Say it.\nInput: dog\nAnswer:"
    assert task_texts.zero_shot_prompt("Say it.", "") == "Instruction: Say it.\nAnswer:"
    plain = {
        name: "".join(part for part, _ in make(Random(3))) for name, (make, _) in task_texts.FORMS.items()
    }
    assert plain["list_of_tasks"].startswith("Here is a series of tasks.\n\n1. ")
    assert "\nLabels: No\n\nTask: " in plain["labelled_tasks"]
    assert "\nExample 1\nInput: " in plain["tasks_with_examples"]
    assert plain["tasks_with_labels_first"].startswith(
        "Write examples for each task, the label first.\n\nTask: "
    )
    assert plain["constrained_tasks"].startswith("Example 1\nInstruction: ")
    assert "\nRephrased: " in plain["rephrasings"]


def test_files_are_small() -> None:
    assert (embedded.TASK_MODEL / "model.safetensors").stat().st_size <= 10_000_000
    assert embedded.TASK_SEEDS.stat().st_size + embedded.TASK_EVALUATION.stat().st_size <= 1_000_000


def test_it_can_do_with_examples_what_it_does_not_do_when_merely_asked(
    evaluation: list[dict[str, Any]], seeds: list[dict[str, Any]]
) -> None:
    from selfimprove_dagster.language_model import open_language_model
    from selfimprove_dagster.language_model.base import SamplingParameters

    model = open_language_model(str(embedded.TASK_MODEL))
    shown = "\n\n".join(
        f"Task: {seed['instruction']}\nExample 1\nInput: {seed['instances'][0]['input']}\n"
        f"Output: {seed['instances'][0]['output']}"
        for seed in seeds[:2]
    )
    rows = [row for row in evaluation if row["input"]][:200]
    few = [
        f"Write examples for each task.\n\n{shown}\n\nTask: {row['instruction']}\nExample 1\n"
        f"Input: {row['input']}\nOutput:"
        for row in rows
    ]
    zero = [task_texts.zero_shot_prompt(row["instruction"], row["input"]) for row in rows]
    greedy = SamplingParameters(temperature=0.0, max_tokens=40, stop=("\n",))

    def accuracy(prompts: list[str]) -> float:
        answers = model.generate([model.encode(prompt) for prompt in prompts], [[0]] * len(prompts), greedy)
        right = [drawn[0].text.strip() == row["output"] for drawn, row in zip(answers, rows, strict=True)]
        return sum(right) / len(right)

    assert accuracy(few) >= FEW_SHOT_FLOOR
    assert ZERO_SHOT_BAND[0] <= accuracy(zero) <= ZERO_SHOT_BAND[1]


def test_the_model_was_taught_in_the_words_of_the_methods() -> None:
    """What the prompts of the methods say is what its training texts said."""
    asked_by = load_prompts([PROMPTS, prompts.PROMPTS, UNNATURAL_PROMPTS], TEXT)
    rng = Random(4)

    def said(text: task_texts.Text) -> str:
        return "".join(part for part, _ in text)

    assert said(task_texts.list_of_tasks(rng)).startswith(asked_by.ask("generation", instructions=[]))
    asked = said(task_texts.labelled_tasks(rng))
    shots = re.findall(r"^Task: (.*)\nLabels: (Yes|No)$", asked, re.MULTILINE)
    *shown, (instruction, label) = shots
    labelled = [{"instruction": text, "answer": answer} for text, answer in shown]
    prompt = asked_by.ask("classification", instruction=instruction, shots=labelled)
    assert asked == f"{prompt} {label}"
    for make, ask in (
        (task_texts.tasks_with_examples, "input_first"),
        (task_texts.tasks_with_labels_first, "output_first"),
    ):
        text = said(make(rng))
        first = re.search(r"^Task: (.*)$", text, re.MULTILINE)
        assert first and text.startswith(asked_by.ask(ask, instruction=first[1], shots=[]))
    assert task_texts.zero_shot_prompt("Sing.", "la") == asked_by.ask(
        TEMPLATES[0], instruction="Sing.", input="la"
    )
    assert task_texts.zero_shot_prompt("Sing.", "") == asked_by.ask(
        TEMPLATES[0], instruction="Sing.", input=""
    )
    # A task without input ends in a space there, which the methods leave out.
    fourth = said(task_texts.constrained_tasks(rng)).replace("Input: \n", "Input:\n").split("\n\n")
    shown_tasks = [parse_example(block.split("\n", 1)[1], "stop").task for block in fourth[:3]]
    asked = "\n\n".join(fourth[:3])
    found = asked_by.ask("example", demonstrations=[task for task in shown_tasks if task])
    assert found == f"{asked}\n\nExample 4\n"
    rephrased = asked_by.ask("paraphrase", instruction="", shots=[])
    assert said(task_texts.rephrasings(rng)).startswith(rephrased.split("\n\n")[0])


def test_unnatural_seeds_are_true() -> None:
    seeds = [json.loads(line) for line in embedded.UNNATURAL_SEEDS.read_text().splitlines()]
    assert len(seeds) == 15
    assert all(world.solve(seed["instruction"], seed["input"]) == seed["output"] for seed in seeds)
    assert not any(world.is_held_out(seed["instruction"], seed["input"]) for seed in seeds)
