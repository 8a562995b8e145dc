"""The tables of the methods whose model writes tasks."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.column_sources import decided, new, of, same
from selfimprove_dagster.families.tasks import words
from selfimprove_dagster.families.tasks.checks import POOL_CHECKS
from selfimprove_dagster.table import SOURCE, TEXT, Table, decisions

INSTANCE = pl.Struct({"input": TEXT, "output": TEXT})


_TASK: dict[str, Any] = {
    "name": TEXT,
    "instruction": TEXT,
    "instances": pl.List(INSTANCE),
    "constraints": TEXT,
    "is_classification": pl.Boolean,
}


SEED_TASKS = Table(
    "seeds/tasks",
    "stask",
    noun="seed task",
    sentence=words.seed_task,
    content={**_TASK, **SOURCE},
    sources=new("parents", *_TASK, *SOURCE),
)
"""Tasks written by people, as they were imported, by file and line; `name` is the task's id in its file."""


POOL_TASKS = {"origin": TEXT, **_TASK, **SOURCE}
"""A task of a pool; `origin` is human or machine."""


def task_pool(method: str) -> Table:
    """The tasks that an iteration may show, `origin` is human or machine; parent: the seed task."""
    return Table(
        f"{method}/seed_pool",
        "task",
        noun="pool task",
        sentence=words.pool_task,
        content=POOL_TASKS,
        # What a model added comes from tables of earlier iterations: a cycle that no asset graph has.
        sources={"parents": of(SEED_TASKS, "id"), **same(SEED_TASKS, *_TASK, *SOURCE), **new("origin")},
        checks=POOL_CHECKS,
    )


def pool_decisions(method: str) -> Table:
    """Why a task is in the pool or not."""
    judged = of(SEED_TASKS, "name", "instruction")
    return decisions(f"{method}/pool_decisions", sources=decided(of(SEED_TASKS, "id"), judged))


EXAMPLE: dict[str, Any] = {
    "question": TEXT,
    "format": TEXT,
    "prompt": TEXT,
    "completion": TEXT,
    "instruction": TEXT,
    "input": TEXT,
    "answer": TEXT,
}


ELICITED: dict[str, Any] = {"instruction": TEXT, "input": TEXT, "constraints": TEXT}
