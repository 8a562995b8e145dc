"""The seeds of Unnatural Instructions: examples of instruction, input, constraints and output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove_dagster.families.tasks.files import filled, optional
from selfimprove_dagster.families.tasks.seeds import PLACE, task_key, task_texts
from selfimprove_dagster.families.tasks.settings import TaskFile
from selfimprove_dagster.families.tasks.tables import SEED_TASKS
from selfimprove_dagster.methods.unnatural_instructions.unnatural_instructions import (
    NO_CONSTRAINTS,
    ElicitedTask,
    example_key,
)
from selfimprove_dagster.rows import Place, Rejected, with_first_instance
from selfimprove_dagster.seeds.files import DUPLICATE, each, split
from selfimprove_dagster.seeds.kind import SeedKind
from selfimprove_dagster.table import Row


@dataclass(frozen=True)
class SeedExample:
    """A seed of Unnatural Instructions and where it stands."""

    task: ElicitedTask
    source_file: str
    source_line: int
    licence: str


def read_examples(path: Path, licence: str = "unknown") -> tuple[list[SeedExample], list[Rejected]]:
    """Return all seeds of `examples`, and all rejected lines."""
    return split(examples(path, licence))


def examples(path: Path, licence: str = "unknown") -> Iterator[SeedExample | Rejected]:
    """Yield the seeds in a source (instruction, input, constraints, output), and the rejected lines.

    Empty constraints become "None."; an output may be left out. Raises SeedFileError as `read_tasks` does.
    """

    def parse(row: Any, at: Place) -> SeedExample:
        row = with_first_instance(row)
        instruction = filled(row, "instruction")
        constraints = optional(row, "constraints") or NO_CONSTRAINTS
        task = ElicitedTask(instruction, optional(row, "input"), constraints, optional(row, "output"))
        return SeedExample(task, at.file, at.line, licence)

    def keys(seed: SeedExample) -> Iterable[tuple[str, str]]:
        yield example_key(seed.task.instruction, seed.task.input), DUPLICATE

    return each(path, parse, keys)


def _examples(source: TaskFile) -> Iterator[Row | Rejected]:
    for one in examples(Path(source.file), source.licence):
        yield one if isinstance(one, Rejected) else _row(one)


def _row(one: SeedExample) -> Row:
    return {
        "name": f"{one.source_file}:{one.source_line}",
        "instruction": one.task.instruction,
        "instances": [{"input": one.task.input, "output": one.task.output}],
        "constraints": one.task.constraints,
        "is_classification": None,
        **{name: getattr(one, name) for name in PLACE},
    }


EXAMPLES = SeedKind(SEED_TASKS, "instruction", _examples, task_key, texts=task_texts)
"""Examples from a `TaskFile`, each a task of one instance."""
