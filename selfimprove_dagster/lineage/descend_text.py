"""What came of a record, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfimprove_dagster.lineage.descend import Descent
from selfimprove_dagster.text import plain

_FIRST = 20


def descent_summary(descent: Descent, *, every: bool = False) -> RenderableType:
    """Counts by iteration and table, datasets, checkpoints, later iterations; the first ids, or all."""
    return Group(*_parts(descent, every))


def _parts(descent: Descent, every: bool) -> Iterator[RenderableType]:
    rows = descent.walk.nodes.filter(pl.col("depth") > 0).drop_nulls("table_name")
    yield Text(plain(descent.place.id), style="bold cyan").append(
        f"  {plain(descent.place.table)} of {plain(descent.place.experiment)}: {len(rows):,} descendants",
        style="not bold default",
    )
    if descent.counts:
        table = Table("experiment", "iteration", "table", "rows")
        for count in descent.counts:
            table.add_row(
                Text(plain(count.experiment)),
                _iteration(count.iteration),
                Text(plain(count.table)),
                f"{count.rows:,}",
            )
        yield table
    for dataset in descent.datasets:
        yield Text(
            f"dataset {plain(dataset.table)} of {plain(dataset.experiment)}, iteration "
            f"{_iteration(dataset.iteration)}: {dataset.rows:,} of its rows ({plain(dataset.activity_id)})"
        )
    verdicts = {True: "promoted", False: "not promoted", None: "not decided yet"}
    for checkpoint in descent.checkpoints:
        yield Text(
            f"checkpoint {plain(checkpoint.id)} of {plain(checkpoint.experiment)}, iteration "
            f"{_iteration(checkpoint.iteration)}: {verdicts[checkpoint.promoted]}"
        )
    for experiment, iteration in descent.later:
        yield Text(f"iteration {iteration} of {plain(experiment)} drew its paths from a model that it shaped")
    shown = rows if every else rows.head(_FIRST)
    for record, name in shown.select("id", "table_name").iter_rows():
        yield Text(plain(record), style="cyan").append(f"  {plain(name)}", style="dim")
    if len(rows) > len(shown):
        yield Text(f"… and {len(rows) - len(shown):,} more: --all lists them", style="dim")


def _iteration(iteration: int | None) -> str:
    return "none" if iteration is None else str(iteration)
