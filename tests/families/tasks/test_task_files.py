"""Task files: every good line goes in, every bad one is kept with file, line and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import selfimprove_dagster
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.families.tasks.files import bans, read_banned, read_tasks
from selfimprove_dagster.families.tasks.tasks import Instance, normalise_instruction
from selfimprove_dagster.methods.self_instruct.rules import (
    FORBIDDEN_WORDS,
    InstructionThresholds,
    filter_instructions,
)
from selfimprove_dagster.methods.unnatural_instructions.seeds import read_examples

SHIPPED = Path(selfimprove_dagster.__file__).parent / "families" / "tasks" / "seed_tasks"


def lines(path: Path, *rows: Any) -> Path:
    """Rows as JSON Lines; text stands as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def task(task_id: str, instruction: str, *instances: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"id": task_id, "name": "n", "instruction": instruction, "instances": list(instances), **more}


def test_the_published_file_is_read_as_it_is(shared_data: Path) -> None:
    path = shared_data / "self_instruct" / "seed_tasks.jsonl"
    tasks, rejected = read_tasks(path, "Apache-2.0")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rejected == [] and len(tasks) == 175
    assert sum(seed.task.is_classification is True for seed in tasks) == 26
    for number, (seed, row) in enumerate(zip(tasks, rows, strict=True), start=1):
        assert (seed.task_id, seed.name, seed.source_line) == (row["id"], row["name"], number)
        assert seed.task.instruction == row["instruction"].strip()
        assert [(one.input, one.output) for one in seed.task.instances] == [
            (one["input"].strip(), one["output"].strip()) for one in row["instances"]
        ]
    assert {seed.source_file for seed in tasks} == {"seed_tasks.jsonl"}
    assert {seed.licence for seed in tasks} == {"Apache-2.0"}
    assert len(read_tasks(path.with_name("user_oriented_instructions.jsonl"))[0]) == 252


def test_what_may_be_left_out(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "t.jsonl",
        {"instruction": " Name a bird. "},
        {"instruction": "Add.", "input": "1 2", "output": 3},
        task("c", "Odd?", {"output": "odd"}, is_classification=True),
    )
    tasks, rejected = read_tasks(path)
    assert rejected == []
    assert [(seed.task_id, seed.task.is_classification) for seed in tasks] == [
        ("t.jsonl:1", None),
        ("t.jsonl:2", None),
        ("c", True),
    ]
    assert [seed.task.instances for seed in tasks] == [(), (Instance("1 2", "3"),), (Instance("", "odd"),)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"instruction": "cut', "not JSON: Unterminated string"),
        ("", "empty line"),
        ("[1]", "an object with a field `instruction` is needed, not list"),
        ({"id": "x"}, "there is no field `instruction`; the fields are: id"),
        (task("x", " "), "field `instruction` is empty"),
        (task("x", "a" * 10_001), "field `instruction` has 10,001 characters, more than 10,000"),
        (
            task("x", "Sing.", is_classification="maybe"),
            "field `is_classification` must be true or false, not 'maybe'",
        ),
        (task("x", "Sing.", is_classification=1), "field `is_classification` must be true or false, not 1"),
        ({"instruction": "Sing.", "instances": "la"}, "field `instances` must be a list, not str"),
        ({"instruction": "Sing.", "instances": ["la"]}, "instance 1: an object with a field"),
        (
            task("x", "Sing.", {"input": "a", "output": "b"}, {"input": "a"}),
            "instance 2: there is no field `output`",
        ),
        (task("x", "Sing.", {"input": "a", "output": ""}), "instance 1: field `output` is empty"),
        (
            task("x", "Sing.", {"input": ["a"], "output": "b"}),
            "instance 1: field `input` must be text, not list",
        ),
        (task("first", "Sing."), "has the id of line 1"),
        (task("x", "name a  bird", {"input": "", "output": "owl"}), "duplicate of line 1"),
    ],
)
def test_bad_lines_are_rejected_with_their_place(tmp_path: Path, row: Any, reason: str) -> None:
    good = task("first", "Name a bird.", {"input": "", "output": "owl"})
    tasks, rejected = read_tasks(lines(tmp_path / "t.jsonl", good, row, task("last", "Count.")))
    assert [seed.task_id for seed in tasks] == ["first", "last"]
    assert [(bad.source_file, bad.source_line) for bad in rejected] == [("t.jsonl", 2)]
    assert rejected[0].reason.startswith(reason)


def test_one_instruction_may_have_two_meanings(tmp_path: Path) -> None:
    rows = [task("a", "Add.", {"output": "3"}), task("b", "Add.", {"output": "sugar"})]
    assert len(read_tasks(lines(tmp_path / "t.jsonl", *rows))[0]) == 2


def test_a_rejected_line_takes_nothing_with_it(tmp_path: Path) -> None:
    rows = [task("a", "Sing."), task("a", "Count."), task("b", "Count.")]
    tasks, rejected = read_tasks(lines(tmp_path / "t.jsonl", *rows))
    assert [seed.task_id for seed in tasks] == ["a", "b"] and len(rejected) == 1


def test_other_kinds_of_files(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("Name a bird.\n\nSing.\n")
    tasks, rejected = read_tasks(tmp_path / "t.txt")
    assert [seed.task.instruction for seed in tasks] == ["Name a bird.", "Sing."]
    assert [bad.reason for bad in rejected] == ["field `instruction` is empty"]
    (tmp_path / "t.csv").write_text(
        "instruction,input,output,is_classification\nOdd?,3,odd,true\nSing,,la,\nHum,,m, False\n"
    )
    tasks, _ = read_tasks(tmp_path / "t.csv")
    assert [(seed.task.instances, seed.task.is_classification) for seed in tasks] == [
        ((Instance("3", "odd"),), True),
        ((Instance("", "la"),), None),
        ((Instance("", "m"),), False),
    ]
    pl.DataFrame([task("a", "Odd?", {"input": "3", "output": "odd"})]).write_parquet(tmp_path / "t.parquet")
    assert read_tasks(tmp_path / "t.parquet")[0][0].task.instances == (Instance("3", "odd"),)
    with pytest.raises(SeedFileError, match="there is no file"):
        read_tasks(tmp_path / "none.jsonl")


def test_banned_instructions_with_and_without_a_reason(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Name a bird.", "by": "Ida", "why": "asked too often"},
        {"instruction": "Sing."},
        {"instruction": "name a BIRD"},
        {"by": "Ida"},
    ]
    banned, rejected = read_banned(lines(tmp_path / "b.jsonl", *rows))
    assert [(one.instruction, one.by, one.why, one.source_line) for one in banned] == [
        ("Name a bird.", "Ida", "asked too often", 1),
        ("Sing.", "nobody named", "no reason given", 2),
    ]
    assert [(bad.source_line, bad.reason) for bad in rejected] == [
        (3, "duplicate of line 1"),
        (4, "there is no field `instruction`; the fields are: by"),
    ]
    (tmp_path / "b.txt").write_text("Sing.\n")
    assert [one.instruction for one in read_banned(tmp_path / "b.txt")[0]] == ["Sing."]
    assert bans(banned)[normalise_instruction("sing")] == banned[1]


def test_the_shipped_tasks_are_good_seeds() -> None:
    tasks, rejected = read_tasks(SHIPPED / "general.jsonl")
    assert rejected == [] and len(tasks) >= 30
    assert sum(seed.task.is_classification is True for seed in tasks) >= 8
    assert all(seed.task.instances and seed.task.is_classification is not None for seed in tasks)
    assert len({seed.task.instruction.split()[0] for seed in tasks}) >= 25
    candidates = pl.DataFrame(
        {
            "candidate_id": [seed.task_id for seed in tasks],
            "instruction": [seed.task.instruction for seed in tasks],
        }
    )
    kept, _ = filter_instructions(candidates, InstructionThresholds())
    assert kept.height == len(tasks), f"some seed breaks a rule, such as {FORBIDDEN_WORDS}"


def test_the_shipped_examples_are_fifteen() -> None:
    seeds, rejected = read_examples(SHIPPED / "unnatural.jsonl", "Apache-2.0")
    assert rejected == [] and len(seeds) == 15
    assert all(seed.task.input and seed.task.output and seed.task.constraints for seed in seeds)
    assert len({seed.task.instruction for seed in seeds}) == 15


def test_examples_need_only_an_instruction(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Sing.", "constraints": ""},
        {"input": "a"},
        {"instruction": "sing", "output": "la"},
    ]
    seeds, rejected = read_examples(lines(tmp_path / "u.jsonl", *rows))
    assert [(seed.task.constraints, seed.task.input, seed.source_line) for seed in seeds] == [
        ("None.", "", 1)
    ]
    assert [bad.reason for bad in rejected] == [
        "there is no field `instruction`; the fields are: input",
        "duplicate of line 1",
    ]
