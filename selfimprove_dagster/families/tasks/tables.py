"""The tables of the methods whose model writes tasks."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.table import (
    SOURCE,
    TEXT,
    Table,
)

INSTANCE = pl.Struct({"input": TEXT, "output": TEXT})


_TASK: dict[str, Any] = {
    "name": TEXT,
    "instruction": TEXT,
    "instances": pl.List(INSTANCE),
    "constraints": TEXT,
    "is_classification": pl.Boolean,
}


SEED_TASKS = Table("seeds/tasks", "stask", noun="seed task", content={**_TASK, **SOURCE})
"""Tasks written by people, as they were imported, by file and line; `name` is the task's id in its file."""


POOL_TASKS = {"origin": TEXT, **_TASK, **SOURCE}
"""A task of a pool; `origin` is human or machine."""


_EXAMPLE: dict[str, Any] = {
    "question": TEXT,
    "format": TEXT,
    "prompt": TEXT,
    "completion": TEXT,
    "instruction": TEXT,
    "input": TEXT,
    "answer": TEXT,
}


_ELICITED: dict[str, Any] = {"instruction": TEXT, "input": TEXT, "constraints": TEXT}
