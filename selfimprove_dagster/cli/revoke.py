"""Print the output of `revoke`, `revocations` and `verify`. Control characters in texts are escaped."""

from __future__ import annotations

import getpass
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.hub import left_with
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.revocations import Revocation
from selfimprove_dagster.lineage.purge import out_of_reach, purge
from selfimprove_dagster.lineage.revoke import Plan, all_tainted
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.loop.champion import NEWEST, champion_before
from selfimprove_dagster.text import plain
from selfimprove_dagster.work.progress import ProgressReport, rate

_LISTED = 50


def user() -> str:
    """Return the name of the current user of the operating system, or "unknown"."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def show(console: Console, home: Home, settled: Plan) -> None:
    """Print the revoked rows by table and iteration, the tainted checkpoints, and the change of champion."""
    revocation = settled.revocation
    if settled.known:
        console.print(f"Already revoked by {_line(revocation)}", markup=False)
    table = Table(title=f"Rows revoked with the {revocation.kind} {plain(revocation.value, 80)}")
    for heading in ("table", "iteration", "rows"):
        table.add_column(heading, justify="left" if heading == "table" else "right")
    for name, iteration, rows in settled.counts.iter_rows():
        table.add_row(name, "–" if iteration < 0 else str(iteration), f"{rows:,}")
    table.add_row("total", "", f"{len(settled.fallen):,}")
    console.print(table)
    for name in settled.fallen["experiment"].unique().sort():
        for model, reason in settled.tainted.get(name, {}).items():
            console.print(f"{name}: {model} is tainted: {reason}", markup=False, soft_wrap=True)
        try:
            experiment = home.experiment(name)
        except ExperimentError:
            continue
        before = champion_before(home.lake, experiment, NEWEST)
        after = champion_before(home.lake, experiment, NEWEST, all_tainted(home.lake, settled, name))
        change = (
            f"falls back from {before.name} to {after.name}" if before != after else f"stays {before.name}"
        )
        console.print(f"{name}: the champion {change}", markup=False)
    _show_left(console, home, settled)


def _show_left(console: Console, home: Home, settled: Plan) -> None:
    """Print where revoked rows and tainted models were pushed to."""
    tainted = {model for models in settled.tainted.values() for model in models}
    for left in left_with(home, settled.fallen["id"], tainted):
        what = f"{left.rows:,} of these rows" if left.rows else f"the tainted model {left.push.model_id}"
        console.print(f"{what} left in {plain(left.push.place)}", markup=False, soft_wrap=True)


def show_revoked(console: Console, settled: Plan) -> None:
    """Print that the revocation is in force, and how to lift it."""
    console.print(
        f"{len(settled.fallen):,} rows are revoked by {settled.revocation.id}; "
        "`selfimprove lineage restore` brings them back",
        markup=False,
    )


def table_of(revocations: Iterable[Revocation]) -> Table:
    """Return a table with one row per revocation, oldest first."""
    table = Table()
    for heading in ("revocation", "what", "experiment", "by", "why", "when", "rows", "since"):
        table.add_column(heading)
    for one in revocations:
        fallen = one.events.get("applied", {}).get("fallen", {})
        table.add_row(
            one.id[:16],
            f"{one.kind} {plain(one.value, 60)}",
            plain(one.experiment or "all", 40),
            plain(one.by, 40),
            plain(one.why, 120),
            one.at,
            f"{sum(fallen.values()):,}" if "applied" in one.events else "unfinished: run the command again",
            _since(one),
        )
    return table


def purge_and_verify(console: Console, lake: Lake, revocation: Revocation) -> None:
    """Purge, then print what was removed, where the text still occurs, and what a purge cannot reach."""
    purged = purge(lake, revocation)
    removed = ", ".join(f"{rows:,} of {table}" for table, rows in purged.rows.items()) or "none left"
    console.print(f"rows removed from the disk: {removed}; unfinished files removed: {purged.leftovers}")
    where = f"{purged.texts:,} texts were searched for in every column of the lake: "
    if not purged.remainders:
        console.print(where + "none was found")
    for left in purged.remainders:
        found = f"{left.rows:,} rows of {left.table} that are not descendants contain such text"
        console.print(f"{where}{found} in {left.column}, the first {left.example}", markup=False)
    verify_and_show(console, lake, None, None)
    console.print("A purge cannot reach:")
    for place in out_of_reach(lake):
        console.print(f"  - {place}")


def verify_and_show(console: Console, lake: Lake, experiment: str | None, expect: str | None) -> bool:
    """Verify with a progress bar and print the report; return whether there are no findings."""
    total = sum(manifest.rows for manifest in lake.manifests(experiment=experiment or "*"))
    with ProgressReport("verify", total, "rows", lambda line: None) as progress:
        report = verify(lake, experiment, expect, progress.advance)
    for finding in report.findings[:_LISTED]:
        console.print(plain(str(finding)), style="red", markup=False, soft_wrap=True)
    if len(report.findings) > _LISTED:
        console.print(f"… and {len(report.findings) - _LISTED:,} more", style="red")
    for note in report.notes:
        console.print(plain(str(note)), markup=False, soft_wrap=True)
    speed = rate(report.rows, "rows", report.seconds)
    console.print(
        f"{report.rows:,} rows in {report.files:,} files of {report.partitions:,} partitions"
        + (f", {speed}: " if speed else ": ")
        + (f"{len(report.findings):,} findings" if report.findings else "no findings")
    )
    console.print(f"digest {report.digest}")
    return not report.findings


def _line(revocation: Revocation) -> str:
    return f"{revocation.id}, by {plain(revocation.by, 40)}: {plain(revocation.why, 120)}"


def _since(revocation: Revocation) -> str:
    for event, word in (("lifted", "restored"), ("purged", "purged"), ("purging", "purge unfinished")):
        if event in revocation.events:
            recorded = revocation.events[event]
            by = f" by {plain(recorded['by'], 40)}: {plain(recorded['why'], 120)}" if "by" in recorded else ""
            return word + by
    return "in force"
