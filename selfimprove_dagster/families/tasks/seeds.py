"""The seeds of methods whose model writes tasks: tasks that people wrote."""

from __future__ import annotations

from pathlib import Path

from selfimprove_dagster.families.tasks.files import read_tasks
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


def _tasks(source: TaskFile) -> tuple[list[Row], list[Rejected]]:
    tasks, rejected = read_tasks(Path(source.file), source.licence)
    return [
        {
            "name": one.task_id,
            "instruction": one.task.instruction,
            "instances": [vars(instance) for instance in one.task.instances],
            "constraints": None,
            "is_classification": one.task.is_classification,
            **{name: getattr(one, name) for name in PLACE},
        }
        for one in tasks
    ], rejected


TASKS = SeedKind(SEED_TASKS, "instruction", _tasks, task_key)
"""Tasks in the format of Self-Instruct, from a `TaskFile`."""
