"""`selfimprove review …`: exports review queues and imports labels.

Each command imports what it needs when it runs, so that `--help` is fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfimprove_dagster.cli.console import Commands, ExperimentName, console
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.text import plain

review_app = typer.Typer(
    cls=Commands, help="Label the least certain decisions by hand.", no_args_is_help=True
)


Iteration = Annotated[int | None, typer.Option(min=0, help="Index of the iteration; default: the latest.")]


Count = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of items in the queue; default: the size of the experiment's own queue, or 50."
    ),
]


@review_app.command("export")
def export_(
    experiment: ExperimentName,
    folder: Annotated[Path, typer.Argument(help="Folder for the files.")],
    iteration: Iteration = None,
    count: Count = None,
    format: Annotated[
        str,
        typer.Option(
            help="csv (review.csv and review.jsonl), argilla (a folder for `Dataset.from_disk`), or label-studio "
            "(tasks.json and labelling.xml)."
        ),
    ] = "csv",
) -> None:
    """Write the queue, least certain items first. Fill in `label` with a, b, both or neither."""
    from selfimprove_dagster.review.files import export_queue

    home = Home.from_environment()
    name = home.experiment(experiment).name
    written = export_queue(home.lake, name, folder, iteration, count, format)
    console.print(f"{written:,} items written to {folder}", markup=False)


@review_app.command("import")
def import_(
    experiment: ExperimentName,
    file: Annotated[
        Path,
        typer.Argument(
            help="A filled review.csv or review.jsonl, or labels that Argilla or Label Studio exported."
        ),
    ],
    by: Annotated[str, typer.Option(help="Name of the reviewer for lines with an empty `by`.")] = "",
) -> None:
    """Import labels. Valid lines are stored; rejected ones are listed with file, line and reason."""
    from selfimprove_dagster.review.files import import_reviews

    home = Home.from_environment()
    done = import_reviews(home.lake, home.experiment(experiment).name, file, by)
    console.print(
        f"{done.accepted:,} labels imported, {done.known:,} imported before, {done.open:,} lines without a "
        f"label, {len(done.rejected):,} rejected"
    )
    for bad in done.rejected:
        where = f"{bad.source_file}, line {bad.source_line}"
        console.print(f"  {plain(where, 200)}: {plain(bad.reason, 300)}", markup=False, soft_wrap=True)


@review_app.command()
def status(experiment: ExperimentName, iteration: Iteration = None, count: Count = None) -> None:
    """Print how many items wait, how many each reviewer labelled, and how often they agree with the model."""
    from selfimprove_dagster.review.queue import review_status

    home = Home.from_environment()
    found = review_status(home.lake, home.experiment(experiment).name, iteration, count)
    console.print(
        f"iteration {found.iteration}: {found.waiting:,} of {found.queued:,} items are waiting; "
        f"{found.reviewed:,} reviewed in all iterations"
    )
    for name, number in found.by:
        console.print(f"  by {plain(name, 100)}: {number:,}", markup=False)
    for table, agreement in found.agreement.items():
        console.print(f"agreement with {table}: {agreement} of {agreement.total:,} labels", markup=False)
    if found.option_a.total:
        console.print(f"share of labels for the option shown as A: {found.option_a}", markup=False)


@review_app.command()
def comparisons(
    experiment: ExperimentName,
    file: Annotated[Path, typer.Argument(help="JSON Lines to write; must not exist yet.")],
) -> None:
    """Write the labelled pairs, for `seeds.file` of an rlhf experiment."""
    from selfimprove_dagster.review.files import write_comparisons

    home = Home.from_environment()
    written = write_comparisons(home.lake, home.experiment(experiment).name, file)
    console.print(f"{written:,} comparisons written to {file}", markup=False)
