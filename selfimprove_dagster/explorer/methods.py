"""Look up what pages show for a method: its declarations, or defaults derived from its tables.

A lake stays readable after a method is uninstalled: its tables are then derived from their files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.explorer.declare import Pages
from selfimprove_dagster.explorer.funnel import Stages, Step, default_funnel
from selfimprove_dagster.explorer.listings import Listing, default_dropped, default_rows
from selfimprove_dagster.explorer.shapes import table_of, unknown_table
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.method import Method
from selfimprove_dagster.table import Table, dataset_of


def installed(name: str) -> Method[Any] | None:
    """Return the method of that name; None if it is not installed."""
    return registry.methods().get(name)


def pages_of(name: str) -> Pages:
    """Return the declarations of the method for its pages, or the defaults."""
    method = installed(name)
    return (method.pages if method else None) or Pages()


def table_named(name: str, row: Mapping[str, Any]) -> Table:
    """Return a table as its method declares it; if that is not installed, derive it from the row."""
    columns = {column: pl.String for column, value in row.items() if isinstance(value, str)}
    return registry.tables().get(name) or unknown_table(name, columns)


def method_of(stages: Stages) -> str:
    """Return the name of the method of an iteration's tables."""
    return next(iter(stages.values())).table.split("/")[0]


def in_order(manifests: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """Return tables by stage in pipeline order; undeclared tables come last, in commit order."""
    order = registry.pipeline_order()
    return dict(
        sorted(
            manifests.items(),
            key=lambda item: (order.get(item[1].table, len(order)), item[1].committed_at),
        )
    )


def tables_of(stages: Stages) -> dict[str, Table]:
    """Return the tables of an iteration's method by stage, in order: all declared or all existing ones."""
    method = installed(method_of(stages))
    if method:
        return {table.stage: table for table in method.tables.values()}
    return {stage: table_of(manifest) for stage, manifest in in_order(stages).items()}


def committed_tables(stages: Stages) -> dict[str, Table]:
    """Return the committed tables of an iteration by stage, in order."""
    return {stage: table_of(manifest) for stage, manifest in in_order(stages).items()}


def examples_of(stages: Stages) -> Listing | None:
    """Return the listing of the examples of an iteration."""
    declared = pages_of(method_of(stages)).examples
    dataset = dataset_of(tables_of(stages))
    return declared or (default_rows(dataset) if dataset else None)


def dropped_of(stages: Stages) -> Mapping[str, Listing]:
    """Return the listings of dropped candidates by the value of the query parameter `of`."""
    return pages_of(method_of(stages)).dropped or default_dropped(committed_tables(stages).values())


def funnel_of(lake: Lake, stages: Stages) -> list[Step]:
    """Return the funnel of an iteration."""
    declared = pages_of(method_of(stages)).funnel
    return declared(lake, stages) if declared else default_funnel(lake, stages, committed_tables(stages))
