"""Print the results of an experiment as tables in the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence

import polars as pl
from rich.table import Table

from selfimprove_dagster import registry
from selfimprove_dagster.cli.console import console
from selfimprove_dagster.errors import LakeError
from selfimprove_dagster.evaluation.exam import NO_REWARD
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.failures import FailedPrompt, failed_prompts
from selfimprove_dagster.loop.champion import NEWEST, champion_before
from selfimprove_dagster.loop.state import State, state_of
from selfimprove_dagster.loop.status import IterationResult, rejected_lines, results, warnings_of
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import percent, plain
from selfimprove_dagster.words import count
from selfimprove_dagster.work.budget import money_line


def print_status(lake: Lake, chain: Sequence[Experiment]) -> None:
    """Print a table of iterations for each method of an experiment, their problems, and what runs next."""
    state = state_of(lake, chain)
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
        for gate in (gate for row in rows for gate in row.closed_gates if state.kind != "blocked"):
            console.print(f"failed check: {plain(gate)}", style="red", markup=False, soft_wrap=True)
        for line in warnings_of(rows):
            console.print(plain(line), style="yellow", markup=False, soft_wrap=True)
    if any(registry.method(settled.method).promotes for settled in chain):
        words = ", ".join(_champion(lake, chain[-1]).values())
        console.print(f"champion: {words}", markup=False, soft_wrap=True)
    for name in dict.fromkeys(settled.name for settled in chain):
        if len(rejected := rejected_lines(lake, name)):
            console.print(f"{count(len(rejected), 'seed line')} rejected:")
            print_rejected(rejected, _LINES)
        print_failed_prompts([*failed_prompts(lake, name)])
    if paid := money_line(lake, chain[0]):
        console.print(paid, markup=False)
    print_state(state)


_STYLES = {"blocked": "red", "failed": "red", "stopped": "yellow", "waiting": "yellow", "running": "green"}


def print_state(state: State) -> None:
    """Print what an experiment is doing, and what to do about it."""
    console.print(f"state: {state.in_words}", style=_STYLES.get(state.kind), markup=False, soft_wrap=True)


def status_json(lake: Lake, chain: Sequence[Experiment]) -> str:
    """Return what an experiment is doing, its iterations and its warnings, as JSON."""
    name = chain[0].name
    rows = [(one, results(lake, one)) for one in chain]
    iterations = [
        {
            "iteration": row.iteration,
            "method": one.method,
            "finished": row.ended,
            "counts": dict(row.counts),
            "champion": row.champion.value if row.champion else None,
            "challenger": row.challenger.value if row.challenger else None,
            "promoted": row.promoted,
            "reason": row.reason,
            "tainted": row.tainted,
        }
        for one, found in rows
        for row in found
    ]
    promotes = any(registry.method(one.method).promotes for one in chain)
    return json.dumps(
        {
            **state_of(lake, chain).to_json(),
            **({"champion": _champion(lake, chain[-1])} if promotes else {}),
            "iterations": iterations,
            "warnings": [line for _, found in rows for line in warnings_of(found)],
            "failed_prompts": [str(one) for one in failed_prompts(lake, name)],
            "rejected_seed_lines": len(rejected_lines(lake, name)),
        },
        indent=1,
    )


_LINES = 3
"""Number of rejected seed lines that are printed."""


def print_rejected(lines: pl.DataFrame, limit: int | None = None) -> None:
    """Print rejected seed lines with file, line and reason: all, or the first and how many more there are."""
    for row in (lines if limit is None else lines.head(limit)).iter_rows(named=True):
        where = f"{row['source_file']}, line {row['source_line']}"
        console.print(f"  {plain(where, 200)}: {plain(row['reason'], 200)}", markup=False, soft_wrap=True)
    if limit is not None and len(lines) > limit:
        console.print(
            f"  … and {len(lines) - limit:,} more, which `selfimprove seeds rejected NAME` prints",
            markup=False,
        )


def print_failed_prompts(failed: Sequence[FailedPrompt]) -> None:
    """Print the first prompts that failed, with file, line and reason, and how many more there are."""
    if not failed:
        return
    console.print(f"{count(len(failed), 'prompt')} failed, and the rest was kept:")
    for one in failed[:_LINES]:
        console.print(f"  {plain(str(one), 400)}", markup=False, soft_wrap=True)
    if len(failed) > _LINES:
        console.print(f"  … and {len(failed) - _LINES:,} more")


def print_failed_answers(rows: Sequence[Row]) -> None:
    """Print how many held-out answers could not be generated, and verdicts made, and the first of them with file, line
    and reason.
    """
    failed = [row for row in rows if row.get("problem") not in (None, NO_REWARD)]
    answers = [row for row in failed if not row["mode"].startswith("judge")]
    verdicts = [row for row in failed if row["mode"].startswith("judge") and (row["text"] or "").strip()]
    for found, what in ((answers, "answer"), (verdicts, "verdict")):
        if not found:
            continue
        made = "generated" if what == "answer" else "made"
        console.print(f"{count(len(found), what)} could not be {made}, which counts as wrong:")
        for row in found[:_LINES]:
            where = f"{row['source_file']}, line {row['source_line']}"
            console.print(
                f"  {plain(where, 200)}: {plain(row['problem'], 200)}", markup=False, soft_wrap=True
            )
        if len(found) > _LINES:
            console.print(f"  … and {len(found) - _LINES:,} more")


def _champion(lake: Lake, experiment: Experiment) -> dict[str, str]:
    """Return the name and the folder of the champion, or why it is not known."""
    try:
        champion = champion_before(lake, experiment, NEWEST)
    except LakeError as error:
        return {"problem": f"not known: {plain(str(error))}"}
    return {"name": champion.name, "path": champion.path}


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
