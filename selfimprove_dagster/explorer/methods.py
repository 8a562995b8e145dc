"""What the pages know about a method: what it declares, or what can be told without it.

A lake stays readable when a method is no longer installed: its tables are then known by their files.
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
    """The method of that name; None where it is not installed."""
    return registry.methods().get(name)


def pages_of(name: str) -> Pages:
    """What the method declares for its pages, or the defaults."""
    method = installed(name)
    return (method.pages if method else None) or Pages()


def table_named(name: str, row: Mapping[str, Any]) -> Table:
    """A table as its method declares it, or, where the method is not installed, by the columns of a row."""
    columns = {column: pl.String for column, value in row.items() if isinstance(value, str)}
    return registry.tables().get(name) or unknown_table(name, columns)


def method_of(stages: Stages) -> str:
    """The method of an iteration's tables."""
    return next(iter(stages.values())).table.split("/")[0]


def in_order(manifests: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """Tables by stage in the order of the pipeline; those that nobody declares last, in the order of commits."""
    order = registry.pipeline_order()
    return dict(
        sorted(
            manifests.items(),
            key=lambda item: (order.get(item[1].table, len(order)), item[1].committed_at),
        )
    )


def tables_of(stages: Stages) -> dict[str, Table]:
    """The tables of an iteration's method by stage, in order: all that it declares, or those that are there."""
    method = installed(method_of(stages))
    if method:
        return {table.stage: table for table in method.tables.values()}
    return {stage: table_of(manifest) for stage, manifest in in_order(stages).items()}


def committed_tables(stages: Stages) -> dict[str, Table]:
    """The tables of an iteration that are committed, by stage, in order."""
    return {stage: table_of(manifest) for stage, manifest in in_order(stages).items()}


def examples_of(stages: Stages) -> Listing | None:
    """How the examples of an iteration are listed."""
    declared = pages_of(method_of(stages)).examples
    dataset = dataset_of(tables_of(stages))
    return declared or (default_rows(dataset) if dataset else None)


def dropped_of(stages: Stages) -> Mapping[str, Listing]:
    """How dropped candidates are listed, by the word under which they are asked for."""
    return pages_of(method_of(stages)).dropped or default_dropped(committed_tables(stages).values())


def funnel_of(lake: Lake, stages: Stages) -> list[Step]:
    """The funnel of an iteration."""
    declared = pages_of(method_of(stages)).funnel
    return declared(lake, stages) if declared else default_funnel(lake, stages, committed_tables(stages))
