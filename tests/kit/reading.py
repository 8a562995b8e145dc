"""Rows and explanations, read in tests."""

from __future__ import annotations

import io
from typing import Any

import polars as pl
from rich.console import Console

from selfimprove_dagster.lineage.explanation import Explanation
from selfimprove_dagster.table import Row


def shown(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def stages(explanation: Explanation) -> list[str]:
    return [step.rule or step.stage.split("/")[1] for step in explanation.steps]


def first(frame: pl.DataFrame, **where: Any) -> Row:
    return frame.filter(**where).row(0, named=True)


def role(row: Row, name: str) -> str:
    return next(str(edge["id"]) for edge in row["parents"] if edge["role"] == name)


def parents(row: dict[str, object], role: str) -> list[str]:
    return [edge["id"] for edge in row["parents"] if edge["role"] == role]  # type: ignore[attr-defined]
