"""`selfimprove lineage …`: every question about an example, asked in the terminal.

What a command needs is imported when it runs, so that `--help` stays quick.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from selfimprove_dagster.cli.console import ExperimentName, console
from selfimprove_dagster.home.home import Home

lineage_app = typer.Typer(
    help="Where an example comes from, why it is there, and what came of it.", no_args_is_help=True
)


class TraceFormat(StrEnum):
    """How an ancestry is printed."""

    TREE = "tree"
    JSON = "json"
    PROV_JSON = "prov-json"


@lineage_app.command()
def trace(
    record: Annotated[str, typer.Argument(help="Id of a record, or the beginning of one.")] = "",
    text: Annotated[str, typer.Option(help="Words of the example instead of its id.")] = "",
    format: Annotated[TraceFormat, typer.Option(help="prov-json is W3C PROV.")] = TraceFormat.TREE,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print the whole ancestry of a record: example ← vote ← paths ← question ← file and line, and so on."""
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
    """Print one training example of the last iteration with its ancestry."""
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
        raise RecordNotFound(f"the last dataset of {experiment} has no example to print")
    chosen = rows["id"][len(rows) // 2]
    console.print(ancestry_tree(walk(home.lake, chosen)))


@lineage_app.command()
def explain(
    record: Annotated[str, typer.Argument(help="Id of a record, or the beginning of one.")],
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            help="Another threshold, as confidence=0.6 or novelty=0.6: what would it keep? "
            "RECORD may be demo-000, too."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why a record is in the training set or why not: every decision on it, in order."""
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
    words: Annotated[str, typer.Argument(help="What the text says, letter by letter, in either case.")],
    experiment: Annotated[str | None, typer.Option(help="Of this experiment only.")] = None,
    table: Annotated[str | None, typer.Option(help="In this table only, as filtered_dataset.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most records to list.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find records by words in their text: examples first, then seeds, then the rest."""
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
        console.print("no record has these words")
    elif len(found) == limit:
        console.print(f"the first {limit:,}; there may be more, --limit shows them")


@lineage_app.command()
def diff(
    a: Annotated[str, typer.Argument(help="An iteration, as demo-000.")],
    b: Annotated[str, typer.Argument(help="Another, of the same experiment or another one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, every example named.")] = False,
) -> None:
    """Compare two datasets: examples, questions, answers, drops by rule, settings."""
    from selfimprove_dagster.cli.answers import difference_text
    from selfimprove_dagster.lineage.diff import diff as compare

    difference = compare(Home.from_environment().lake, a, b)
    _show(difference.to_json() if as_json else difference_text(difference), as_json)


@lineage_app.command()
def replay(
    record: Annotated[str, typer.Argument(help="A completion, an example, a vote; with --sample, demo-000.")],
    sample: Annotated[
        int | None, typer.Option(min=1, help="Replay so many of the iteration, chosen by a fixed lot.")
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="One path after the other, not in a batch.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Generate a completion again from its recorded model, prompt and seed, and compare it token by token."""
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
        print(json.dumps(answer, indent=1))  # ASCII: what a model wrote must not act on the terminal
    else:
        console.print(answer)


@lineage_app.command()
def revoke(
    why: Annotated[str, typer.Option(help="The reason; it is kept, and shown to whoever asks.")],
    seed: Annotated[str | None, typer.Option(help="A seed's id: its question or task must go.")] = None,
    record: Annotated[str | None, typer.Option(help="A record's id: it alone must go.")] = None,
    source_file: Annotated[str | None, typer.Option(help="A seed file's name: all of it must go.")] = None,
    licence: Annotated[str | None, typer.Option(help="A licence: all that came under it must go.")] = None,
    experiment: Annotated[str | None, typer.Option(help="In this experiment alone; default: all.")] = None,
    by: Annotated[str | None, typer.Option(help="Who says so; default: the user of the system.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would fall.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the text from the disk as well.")] = False,
) -> None:
    """Let a seed, record, source file or licence fall, with all that came of it. A dry run without --yes."""
    from selfimprove_dagster.cli import revoke as revoke_text
    from selfimprove_dagster.lineage.revoke import plan
    from selfimprove_dagster.lineage.revoke import revoke as apply

    given = {"seed": seed, "record": record, "source-file": source_file, "licence": licence}
    named = [(kind, value) for kind, value in given.items() if value is not None]
    if len(named) != 1:
        raise typer.BadParameter("name one of --seed, --record, --source-file and --licence")
    home, (kind, value) = Home.from_environment(), named[0]
    arguments = (home.lake, kind, value, experiment, by or revoke_text.user(), why)
    revoke_text.show(console, home, plan(*arguments))
    if yes:
        settled = apply(*arguments)
        if purge:
            revoke_text.purge_and_verify(console, home.lake, settled.revocation)
        else:
            revoke_text.show_revoked(console, settled)
    else:
        console.print("Nothing was changed. Say --yes to let it fall.")


@lineage_app.command()
def restore(
    revocation: Annotated[str, typer.Argument(help="Id of a revocation, or the beginning of one.")],
    why: Annotated[str, typer.Option(help="The reason; it is kept.")],
    by: Annotated[str | None, typer.Option(help="Who says so; default: the user of the system.")] = None,
) -> None:
    """Lift a revocation: what fell with it alone is there again. One that was purged cannot be lifted."""
    from selfimprove_dagster.cli import revoke as revoke_text
    from selfimprove_dagster.lineage.revoke import restore as lift

    lifted = lift(Home.from_environment().lake, revocation, by or revoke_text.user(), why)
    console.print(f"{lifted.id} is lifted", markup=False)


@lineage_app.command()
def revocations() -> None:
    """List what was revoked: who, why, when, what fell, and whether it was lifted or purged."""
    from selfimprove_dagster.cli import revoke as revoke_text

    console.print(revoke_text.table_of(Home.from_environment().lake.ledger.revocations()))


@lineage_app.command()
def verify(
    experiment: Annotated[str | None, typer.Argument(help="Name of an experiment; default: all.")] = None,
    expect: Annotated[str | None, typer.Option(help="The digest that was printed when all was well.")] = None,
) -> None:
    """Compute again every checksum, id and hash, and look for every parent; exit code 1 on findings."""
    from selfimprove_dagster.cli import revoke as revoke_text

    if not revoke_text.verify_and_show(console, Home.from_environment().lake, experiment, expect):
        raise typer.Exit(1)


@lineage_app.command()
def openlineage(
    experiment: ExperimentName,
    output: Annotated[Path, typer.Argument(help="File to write, one event a line; must not exist yet.")],
) -> None:
    """Write OpenLineage run events of all that was made: datasets, schemas, column lineage, checks."""
    from selfimprove_dagster.lineage.openlineage import write_events

    written = write_events(Home.from_environment().lake, experiment, output)
    console.print(f"{written:,} events written to {output}", markup=False)


@lineage_app.command()
def descendants(
    record: Annotated[str, typer.Argument(help="Id of a record, or the beginning of one.")],
    every: Annotated[bool, typer.Option("--all", help="List every id.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a summary.")] = False,
) -> None:
    """Print what came of a record: rows, datasets, checkpoints, and the iterations that drew from those."""
    from selfimprove_dagster.cli.answers import descent_summary
    from selfimprove_dagster.lineage.descend import descend

    descent = descend(Home.from_environment().lake, record)
    _show(descent.to_json(every=every) if as_json else descent_summary(descent, every=every), as_json)


@lineage_app.command()
def index() -> None:
    """Bring the index of lineage up to date now; otherwise the first question after a commit does."""
    import time

    from selfimprove_dagster.lineage.walk import Lineage

    began = time.monotonic()
    edges = Lineage(Home.from_environment().lake).snapshot.edges
    console.print(f"{edges:,} edges, {time.monotonic() - began:.2f} s")
