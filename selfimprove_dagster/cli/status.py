"""Print the results of an experiment as tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl
from rich.table import Table

from selfimprove_dagster import registry
from selfimprove_dagster.cli.console import console
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.failures import FailedPrompt, failed_prompts
from selfimprove_dagster.loop.rules import Stop, decide_next
from selfimprove_dagster.loop.status import IterationResult, rejected_lines, results
from selfimprove_dagster.shared_tables import REJECTED_SEEDS
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import percent, plain
from selfimprove_dagster.words import count
from selfimprove_dagster.work.budget import money_line


def print_status(lake: Lake, chain: Sequence[Experiment]) -> None:
    """Print a table of iterations for each method of an experiment, their problems, and what runs next."""
    for settled in chain:
        rows, method = results(lake, settled), registry.method(settled.method)
        console.print(_table(settled, rows))
        if method.promotes:
            how = settled.decided_in.replace("_", " ")
            console.print(f"champion, new checkpoint: held-out accuracy, {how}, with its 95% interval")
        if method.results and method.results.about and any(row.columns for row in rows):
            console.print(method.results.about)
        for row in rows:
            if row.tainted:
                line = f"tainted: the checkpoint of iteration {row.iteration}: {row.tainted}"
                console.print(line, style="red", markup=False, soft_wrap=True)
        for row in rows if not method.promotes else ():
            if row.reason:
                console.print(f"iteration {row.iteration}: {plain(row.reason)}", markup=False, soft_wrap=True)
        for gate in (gate for row in rows for gate in row.closed_gates):
            console.print(f"blocked by a check: {plain(gate)}", style="red", markup=False)
        for line in _warnings(rows):
            console.print(line, style="yellow", markup=False, soft_wrap=True)
    for name in dict.fromkeys(settled.name for settled in chain):
        if len(rejected := rejected_lines(lake, name)):
            console.print(f"{count(len(rejected), 'seed line')} rejected:")
            print_rejected(rejected, _LINES)
        print_failed_prompts([*failed_prompts(lake, name)])
    if paid := money_line(lake, chain[0]):
        console.print(paid, markup=False)
    step = decide_next(lake, chain[0])
    ready = "" if isinstance(step, Stop) else ", ready to run"
    console.print(f"next: {step.in_words}{ready}", markup=False)


_LINES = 3
"""Number of rejected seed lines that are printed."""


def print_rejected(lines: pl.DataFrame, limit: int) -> None:
    """Print the first rejected seed lines with file, line and reason, and how many more there are."""
    for row in lines.head(limit).iter_rows(named=True):
        where = f"{row['source_file']}, line {row['source_line']}"
        console.print(f"  {plain(where, 200)}: {plain(row['reason'], 200)}", markup=False, soft_wrap=True)
    if len(lines) > limit:
        console.print(f"  … and {len(lines) - limit:,} more in the table {REJECTED_SEEDS.name}")


def print_failed_prompts(failed: Sequence[FailedPrompt]) -> None:
    """Print the first prompts that could not be continued, with file, line and reason, and how many more there are."""
    if not failed:
        return
    console.print(f"{count(len(failed), 'prompt')} could not be continued, and the rest was generated:")
    for one in failed[:_LINES]:
        console.print(f"  {plain(str(one), 400)}", markup=False, soft_wrap=True)
    if len(failed) > _LINES:
        console.print(f"  … and {len(failed) - _LINES:,} more")


def print_failed_answers(rows: Sequence[Row]) -> None:
    """Print how many held-out answers could not be generated, and the first of them with file, line and reason."""
    failed = [row for row in rows if row.get("problem") and not row["mode"].startswith("judge")]
    if not failed:
        return
    console.print(f"{count(len(failed), 'answer')} could not be generated, which counts as wrong:")
    for row in failed[:_LINES]:
        where = f"{row['source_file']}, line {row['source_line']}"
        console.print(f"  {plain(where, 200)}: {plain(row['problem'], 200)}", markup=False, soft_wrap=True)
    if len(failed) > _LINES:
        console.print(f"  … and {len(failed) - _LINES:,} more")


def _warnings(rows: Sequence[IterationResult]) -> Iterator[str]:
    """Yield a line for each check that failed and does not block, with the reason in its last such iteration."""
    failed: dict[str, list[IterationResult]] = {}
    for row in rows:
        for name in row.warnings:
            failed.setdefault(name, []).append(row)
    for name, found in failed.items():
        where = ", ".join(str(row.iteration) for row in found)
        yield f"warning in iteration{'s' if len(found) > 1 else ''} {where}: {name}: {plain(found[-1].warnings[name])}"


def _table(settled: Experiment, rows: Sequence[IterationResult]) -> Table:
    name = f"{settled.name}, {settled.method}" if len(settled.chain) > 1 else settled.name
    table = Table(title=f"{name}: {settled.description}" if settled.description else name)
    method = registry.method(settled.method)
    own = tuple(dict.fromkeys(heading for row in rows for heading in row.columns))
    models = ("champion", "new checkpoint") if method.promotes else ()
    for heading in ("iteration", *method.counted, *own, *models):
        table.add_column(heading, justify="right")
    if method.promotes:
        table.add_column("promoted")
    for row in rows:
        cells = [f"{count:,}" if count is not None else "–" for count in row.counts.values()]
        cells += [row.columns.get(heading, "–") for heading in own]
        if method.promotes:
            promoted = "–" if row.promoted is None else "yes" if row.promoted else "no"
            cells += [percent(row.champion.value) if row.champion else "–", str(row.challenger or "–")]
            cells.append(promoted + (", tainted" if row.tainted else ""))
        table.add_row(str(row.iteration), *cells)
    return table
