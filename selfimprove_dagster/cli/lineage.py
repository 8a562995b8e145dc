"""`selfimprove lineage …`: answers questions about examples in the terminal.

Each command imports what it needs when it runs, so that `--help` is fast.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from selfimprove_dagster.cli.console import Commands, ExperimentName, console
from selfimprove_dagster.home.home import Home

lineage_app = typer.Typer(
    cls=Commands,
    help="Where an example comes from, why it was kept, and what descends from it.",
    no_args_is_help=True,
)


class TraceFormat(StrEnum):
    """The format in which an ancestry is printed."""

    TREE = "tree"
    JSON = "json"
    PROV_JSON = "prov-json"


@lineage_app.command()
def trace(
    record: Annotated[str, typer.Argument(help="Id of a record, or the start of one.")] = "",
    text: Annotated[str, typer.Option(help="Words in the example, instead of its id.")] = "",
    format: Annotated[TraceFormat, typer.Option(help="prov-json is W3C PROV.")] = TraceFormat.TREE,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
) -> None:
    """Print the ancestry of a record, from example to vote, paths, question, and source file and line."""
    from selfimprove_dagster.cli.ancestry import ancestry_tree
    from selfimprove_dagster.lineage.prov import prov_json, trace_document
    from selfimprove_dagster.lineage.search import only_example
    from selfimprove_dagster.lineage.trace import trace as walk

    if bool(record) == bool(text):
        raise typer.BadParameter("give the id of a record, or --text with some of its words")
    lake = Home.from_environment().lake
    record = record or only_example(lake, text)
    if format is TraceFormat.PROV_JSON:
        print(prov_json(trace_document(lake, record)), end="")
        return
    ancestor = walk(lake, record)
    if as_json or format is TraceFormat.JSON:
        print(ancestor.json_text())
    else:
        console.print(ancestry_tree(ancestor))


@lineage_app.command()
def example(experiment: ExperimentName) -> None:
    """Print one training example of the latest iteration with its ancestry."""
    from selfimprove_dagster.cli.ancestry import ancestry_tree
    from selfimprove_dagster.export import last_dataset
    from selfimprove_dagster.lineage.trace import trace as walk
    from selfimprove_dagster.lineage.walk import RecordNotFound

    home = Home.from_environment()
    manifest = last_dataset(home.lake, home.experiment(experiment))
    rows = home.lake.read_ungated(manifest)
    if "vote_share" in rows.columns:
        rows = rows.filter(format="zero_shot_cot").sort("vote_share")
    if rows.is_empty():
        raise RecordNotFound(f"the latest dataset of {experiment} contains no example")
    chosen = rows["id"][len(rows) // 2]
    console.print(ancestry_tree(walk(home.lake, chosen)))


@lineage_app.command()
def explain(
    record: Annotated[str, typer.Argument(help="Id of a record, or the start of one.")],
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            help="Apply another threshold, e.g. confidence=0.6 or novelty=0.6, and show what it would keep. "
            "RECORD may also be an iteration, e.g. demo-000."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain why a record is in the training set or not: every decision about it, in order."""
    from selfimprove_dagster.cli import answers as explain_text
    from selfimprove_dagster.lineage.explain import explain as find_out
    from selfimprove_dagster.lineage.what_if import what_if as filter_again

    lake = Home.from_environment().lake
    if what_if:
        answer = filter_again(lake, record, what_if)
        _show(answer.to_json() if as_json else explain_text.what_if_text(answer), as_json)
    else:
        explanation = find_out(lake, record)
        _show(explanation.to_json() if as_json else explain_text.explanation_text(explanation), as_json)


@lineage_app.command()
def search(
    words: Annotated[str, typer.Argument(help="Text to find, matched literally, ignoring case.")],
    experiment: Annotated[str | None, typer.Option(help="Search this experiment only.")] = None,
    table: Annotated[str | None, typer.Option(help="Search this table only, e.g. filtered_dataset.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of records to list.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find records by their text: examples first, then seeds, then other records."""
    from selfimprove_dagster.lineage.search import search as find
    from selfimprove_dagster.text import plain

    found = find(Home.from_environment().lake, words, experiment, table, limit)
    if as_json:
        _show([hit.to_json() for hit in found], as_json)
        return
    for hit in found:
        place = hit.experiment if hit.iteration is None else f"{hit.experiment}-{hit.iteration:03d}"
        line = f"{hit.id}  {hit.table} of {place}\n    {plain(hit.excerpt)}"
        console.print(line, markup=False, soft_wrap=True)
    if not found:
        console.print("no record contains this text")
    elif len(found) == limit:
        console.print(f"the first {limit:,} are listed; raise --limit to see more")


@lineage_app.command()
def diff(
    a: Annotated[str, typer.Argument(help="An iteration, e.g. demo-000.")],
    b: Annotated[str, typer.Argument(help="Another iteration, of the same or another experiment.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with every example.")] = False,
) -> None:
    """Compare two datasets: examples, questions, answers, drops per rule, settings."""
    from selfimprove_dagster.cli.answers import difference_text
    from selfimprove_dagster.lineage.diff import diff as compare

    difference = compare(Home.from_environment().lake, a, b)
    _show(difference.to_json() if as_json else difference_text(difference), as_json)


@lineage_app.command()
def replay(
    record: Annotated[
        str, typer.Argument(help="Id of a completion, example or vote; with --sample, e.g. demo-000.")
    ],
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="Replay this many completions of the iteration, sampled at random."),
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Replay paths one at a time, not in a batch.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Regenerate a completion from its recorded model, prompt and seed, and compare it token by token."""
    from selfimprove_dagster.cli.answers import replay_text
    from selfimprove_dagster.lineage import replay as library

    home = Home.from_environment()
    if sample is None:
        outcome = library.replay(home, record, alone=alone)
    else:
        outcome = library.replay_sample(home, record, sample, alone=alone)
    _show(outcome.to_json() if as_json else replay_text(outcome), as_json)


def _show(answer: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer, indent=1))  # ASCII: text from a model must not control the terminal
    else:
        console.print(answer)


@lineage_app.command()
def revoke(
    why: Annotated[str, typer.Option(help="The reason. It is recorded and shown.")],
    seed: Annotated[str | None, typer.Option(help="Revoke the seed with this id.")] = None,
    record: Annotated[str | None, typer.Option(help="Revoke the record with this id.")] = None,
    source_file: Annotated[str | None, typer.Option(help="Revoke every seed of this file.")] = None,
    licence: Annotated[str | None, typer.Option(help="Revoke every seed under this licence.")] = None,
    experiment: Annotated[
        str | None, typer.Option(help="Revoke in this experiment only; default: all.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who decided this; default: the current user.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Apply it; without --yes, only list the rows.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Also delete the text from the disk.")] = False,
) -> None:
    """Revoke a seed, record, source file or licence and everything derived from it. Dry run unless --yes."""
    from selfimprove_dagster.cli import revoke as revoke_text
    from selfimprove_dagster.lineage.revoke import plan
    from selfimprove_dagster.lineage.revoke import revoke as apply

    given = {"seed": seed, "record": record, "source-file": source_file, "licence": licence}
    named = [(kind, value) for kind, value in given.items() if value is not None]
    if len(named) != 1:
        raise typer.BadParameter("give one of --seed, --record, --source-file and --licence")
    home, (kind, value) = Home.from_environment(), named[0]
    arguments = (home.lake, kind, value, experiment, by or revoke_text.user(), why)
    planned = plan(*arguments)
    revoke_text.show(console, home, planned)
    if yes:
        settled = apply(*arguments, planned.revocation.at)
        if purge:
            revoke_text.purge_and_verify(console, home.lake, settled.revocation)
        else:
            revoke_text.show_revoked(console, settled)
    else:
        console.print("Nothing was changed. Add --yes to revoke.")


@lineage_app.command()
def restore(
    revocation: Annotated[str, typer.Argument(help="Id of a revocation, or the start of one.")],
    why: Annotated[str, typer.Option(help="The reason. It is recorded.")],
    by: Annotated[str | None, typer.Option(help="Who decided this; default: the current user.")] = None,
) -> None:
    """Lift a revocation and bring its records back. A purged revocation cannot be lifted."""
    from selfimprove_dagster.cli import revoke as revoke_text
    from selfimprove_dagster.lineage.revoke import restore as lift

    lifted = lift(Home.from_environment().lake, revocation, by or revoke_text.user(), why)
    console.print(f"{lifted.id} is lifted", markup=False)


@lineage_app.command()
def revocations() -> None:
    """List revocations: who, why, when, how many rows, and whether each was lifted or purged."""
    from selfimprove_dagster.cli import revoke as revoke_text

    found = Home.from_environment().lake.ledger.revocations()
    console.print(revoke_text.table_of(found) if found else "there are no revocations")


@lineage_app.command()
def verify(
    experiment: Annotated[str | None, typer.Argument(help="Name of an experiment; default: all.")] = None,
    expect: Annotated[str | None, typer.Option(help="A digest that an earlier verify printed.")] = None,
) -> None:
    """Recompute every checksum, id and hash and check every parent. Exit code 1 on findings."""
    from selfimprove_dagster.cli import revoke as revoke_text

    if not revoke_text.verify_and_show(console, Home.from_environment().lake, experiment, expect):
        raise typer.Exit(1)


@lineage_app.command()
def openlineage(
    experiment: ExperimentName,
    output: Annotated[Path, typer.Argument(help="File to write, one event per line; must not exist yet.")],
) -> None:
    """Write OpenLineage run events: datasets, schemas, column lineage, checks."""
    from selfimprove_dagster.lineage.openlineage import write_events

    written = write_events(Home.from_environment().lake, experiment, output)
    console.print(f"{written:,} events written to {output}", markup=False)


@lineage_app.command()
def descendants(
    record: Annotated[str, typer.Argument(help="Id of a record, or the start of one.")],
    every: Annotated[bool, typer.Option("--all", help="List every id.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a summary.")] = False,
) -> None:
    """Print the descendants of a record: rows, datasets, checkpoints, and later iterations."""
    from selfimprove_dagster.cli.answers import descent_summary
    from selfimprove_dagster.lineage.descend import descend

    descent = descend(Home.from_environment().lake, record)
    _show(descent.to_json(every=every) if as_json else descent_summary(descent, every=every), as_json)


@lineage_app.command()
def index() -> None:
    """Update the lineage index now; otherwise the first query after a commit updates it."""
    import time

    from selfimprove_dagster.lineage.walk import Lineage

    began = time.monotonic()
    edges = Lineage(Home.from_environment().lake).snapshot.edges
    console.print(f"{edges:,} edges, {time.monotonic() - began:.2f} s")
