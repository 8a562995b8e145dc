"""Tasks from files: every good line goes in, every bad one is kept with file, line and reason.

The format is that of Self-Instruct's `seed_tasks.jsonl`: `id, name, instruction, is_classification` and
`instances` of `input` and `output`. Only the instruction must be there. A line of plain text is an
instruction; a row with an `output` of its own and no `instances` is a task of one instance. The kinds of
files are those of `question_files`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove_dagster.families.tasks.tasks import Instance, Task, normalise_instruction
from selfimprove_dagster.rows import Place, Rejected, text_field
from selfimprove_dagster.seeds.files import DUPLICATE, each, read_each, split

LONGEST = 10_000
"""Characters of one field; a line with a longer one is rejected."""


@dataclass(frozen=True)
class SeedTask:
    """A task and where it stands. `task_id` is the file's `id`, by which a later file can replace it."""

    task: Task
    task_id: str
    name: str
    source_file: str
    source_line: int
    licence: str


@dataclass(frozen=True)
class BannedInstruction:
    """An instruction that must not come up again, who said so, and why."""

    instruction: str
    by: str
    why: str
    source_file: str
    source_line: int


def read_tasks(path: Path, licence: str = "unknown") -> tuple[list[SeedTask], list[Rejected]]:
    """Return all tasks of `tasks`, and all rejected lines."""
    return split(tasks(path, licence))


def tasks(path: Path, licence: str = "unknown") -> Iterator[SeedTask | Rejected]:
    """Yield the tasks of a source and its rejected lines; an id or an instruction counts once.

    A task without an id is called by file and line. Raises SeedFileError when the file as a whole cannot be
    read: missing, of an unknown kind, or not what its name says.
    """

    def parse(row: Any, at: Place) -> SeedTask:
        row = {"instruction": row} if isinstance(row, str) else row
        instruction = filled(row, "instruction")
        task = Task(instruction, _instances(row), _truth(row, "is_classification"))
        task_id = optional(row, "id") or f"{at.file}:{at.line}"
        return SeedTask(task, task_id, optional(row, "name"), at.file, at.line, licence)

    def keys(seed: SeedTask) -> Iterable[tuple[str, str]]:
        yield f"id {seed.task_id}", "has the id of {}"
        # Two tasks may share an instruction as short as "Add." where their instances show what it means.
        shown = "\0".join(f"{one.input}\0{one.output}" for one in seed.task.instances)
        yield f"task {normalise_instruction(seed.task.instruction)}\0{shown}", DUPLICATE

    return each(path, parse, keys)


def read_banned(path: Path) -> tuple[list[BannedInstruction], list[Rejected]]:
    """All instructions that a file bans: one a line, or rows of `instruction`, `by` and `why`.

    Raises SeedFileError as `read_tasks` does.
    """

    def parse(row: Any, at: Place) -> BannedInstruction:
        row = {"instruction": row} if isinstance(row, str) else row
        instruction = filled(row, "instruction")
        by, why = optional(row, "by") or "nobody named", optional(row, "why") or "no reason given"
        return BannedInstruction(instruction, by, why, at.file, at.line)

    def keys(banned: BannedInstruction) -> Iterable[tuple[str, str]]:
        yield normalise_instruction(banned.instruction), DUPLICATE

    return read_each(path, parse, keys)


def bans(banned: Iterable[BannedInstruction]) -> dict[str, BannedInstruction]:
    """The bans by normalised instruction, as the rule against them asks for; a later one replaces."""
    return {normalise_instruction(one.instruction): one for one in banned}


def _instances(row: Any) -> tuple[Instance, ...]:
    given = row.get("instances")
    if given is None:
        given = [row] if row.get("output") not in (None, "") else []
    if not isinstance(given, list):
        raise ValueError(f"field `instances` must be a list, not {type(given).__name__}")
    read = []
    for number, instance in enumerate(given, start=1):
        try:
            read.append(Instance(optional(instance, "input"), filled(instance, "output")))
        except ValueError as error:
            raise ValueError(f"instance {number}: {error}") from None
    return tuple(read)


def filled(row: Any, field: str) -> str:
    text = text_field(row, field)
    if not text:
        raise ValueError(f"field `{field}` is empty")
    if len(text) > LONGEST:
        raise ValueError(f"field `{field}` has {len(text):,} characters, more than {LONGEST:,}")
    return text


def optional(row: Any, field: str) -> str:
    """The field's text, empty where there is none."""
    if isinstance(row, Mapping) and row.get(field) in (None, ""):
        return ""
    return filled(row, field) if text_field(row, field) else ""


def _truth(row: Mapping[str, Any], field: str) -> bool | None:
    value = row.get(field)
    if isinstance(value, str):  # a table's cell
        value = {"true": True, "false": False, "": None}.get(value.strip().lower(), value)
    if value is None or isinstance(value, bool):
        return value
    raise ValueError(f"field `{field}` must be true or false, not {value!r}")
