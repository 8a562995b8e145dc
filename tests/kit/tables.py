"""The tables of several methods, with what they read."""

from __future__ import annotations

from collections.abc import Iterable

from selfimprove_dagster import registry
from selfimprove_dagster.table import Table


def tables_of(*methods: str) -> tuple[Table, ...]:
    """What these methods read, then what their stages write, method by method in the order of the pipeline."""
    found = [registry.method(name) for name in methods]
    inputs = {table.name: table for method in found for table in method.inputs}
    return (*inputs.values(), *(table for method in found for table in method.tables.values()))


JUDGE_TABLES = tables_of("constitutional", "rlaif", "rlhf")
TASK_TABLES = tables_of("self_instruct", "unnatural_instructions")


def filled(tables: Iterable[Table]) -> list[Table]:
    """Return the tables without those that stay empty where no filter asks for scores of examples."""
    return [one for one in tables if one.stage not in ("example_perplexities", "example_ratings")]
