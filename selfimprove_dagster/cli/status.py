"""The results of an experiment as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from selfimprove_dagster.cli.console import console
from selfimprove_dagster.experiment.base import Experiment, TrainingExperiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.loop.rules import Stop, decide_next
from selfimprove_dagster.loop.status import IterationResult, results
from selfimprove_dagster.text import plain


def print_status(lake: Lake, chain: Sequence[Experiment]) -> None:
    """A table of iterations for each method of an experiment, what is wrong with them, and what follows."""
    for settled in chain:
        rows = results(lake, settled)
        console.print(_table(settled, rows))
        if isinstance(settled, TrainingExperiment):
            how = settled.decided_in.replace("_", " ")
            about = f"champion, new checkpoint: held-out accuracy, {how}, with its 95% interval"
            console.print(f"{about}; by vote: its majority" if settled.method == "lmsi" else about)
        if any(row.by_way for row in rows):
            console.print(
                "original, and by way: held-out accuracy after the last round, with its 95% interval"
            )
        for row in rows:
            if row.tainted:
                line = f"tainted: the checkpoint of iteration {row.iteration}: {row.tainted}"
                console.print(line, style="red", markup=False, soft_wrap=True)
        for row in rows if not isinstance(settled, TrainingExperiment) else ():
            if row.reason:
                console.print(f"iteration {row.iteration}: {plain(row.reason)}", markup=False, soft_wrap=True)
        for gate in (gate for row in rows for gate in row.closed_gates):
            console.print(f"closed gate: {plain(gate)}", style="red", markup=False)
    step = decide_next(lake, chain[0])
    can_follow = "" if isinstance(step, Stop) else " can follow"
    console.print(f"next: {step.in_words}{can_follow}", markup=False)


def _table(settled: Experiment, rows: Sequence[IterationResult]) -> Table:
    name = f"{settled.name}, {settled.method}" if len(settled.chain) > 1 else settled.name
    table = Table(title=f"{name}: {settled.description}" if settled.description else name)
    voted, trained = settled.method == "lmsi", isinstance(settled, TrainingExperiment)
    counted = rows[0].counts(settled.method) if rows else ()
    ways = tuple(dict.fromkeys(way for row in rows for way in row.by_way))
    right = (*counted, *(["vote margin"] if voted else []), *(way.replace("_", "-") for way in ways))
    for heading in ("iteration", *right, *(["champion", "new checkpoint"] if trained else [])):
        table.add_column(heading, justify="right")
    for heading in (*(["by vote"] if voted else []), *(["promoted"] if trained else [])):
        table.add_column(heading)
    for row in rows:
        cells = [f"{count:,}" if count is not None else "–" for count in row.counts(settled.method).values()]
        if voted:
            cells.append(f"{row.margin:.3f}" if row.margin is not None else "–")
        cells += [str(row.by_way.get(way, "–")) for way in ways]
        if trained:
            cells += [f"{row.champion.value:.1%}" if row.champion else "–", str(row.challenger or "–")]
        if voted:
            cells.append(f"{row.challenger_majority.value:.1%}" if row.challenger_majority else "–")
        if trained:
            promoted = "–" if row.promoted is None else "yes" if row.promoted else "no"
            cells.append(promoted + (", tainted" if row.tainted else ""))
        table.add_row(str(row.iteration), *cells)
    return table
