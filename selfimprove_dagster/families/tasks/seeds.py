"""The seeds of methods whose model writes tasks: tasks that people wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from selfimprove_dagster.families.tasks.files import SeedTask, tasks
from selfimprove_dagster.families.tasks.settings import TaskFile
from selfimprove_dagster.families.tasks.tables import SEED_TASKS
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.rows import Rejected
from selfimprove_dagster.seeds.kind import SeedKind
from selfimprove_dagster.table import Row

PLACE = ("source_file", "source_line", "licence")


def task_key(row: Row) -> str:
    """A task that was edited is another seed; in the pool it replaces the one of its name."""
    return content_hash({name: row[name] for name in SEED_TASKS.content if "source" not in name})


def task_texts(row: Row) -> list[str]:
    """Return the texts of a task as an evaluation has them: the instruction with each input, and the outputs."""
    asked = [f"{row['instruction']}\n{one['input']}".strip() for one in row["instances"]]
    return [*(asked or [row["instruction"]]), *(one["output"] for one in row["instances"])]


def _tasks(source: TaskFile) -> Iterator[Row | Rejected]:
    for one in tasks(Path(source.file), source.licence):
        yield one if isinstance(one, Rejected) else _row(one)


def _row(one: SeedTask) -> Row:
    return {
        "name": one.task_id,
        "instruction": one.task.instruction,
        "instances": [vars(instance) for instance in one.task.instances],
        "constraints": None,
        "is_classification": one.task.is_classification,
        **{name: getattr(one, name) for name in PLACE},
    }


TASKS = SeedKind(SEED_TASKS, "instruction", _tasks, task_key, texts=task_texts)
"""Tasks in the format of Self-Instruct, from a `TaskFile`."""
