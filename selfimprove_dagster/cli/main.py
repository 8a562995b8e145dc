"""`selfimprove`: run experiments, inspect their results, and trace where an example comes from."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from selfimprove_dagster.cli.checkpoints import checkpoints_app
from selfimprove_dagster.cli.console import Commands, ExperimentName, console
from selfimprove_dagster.cli.export import export, iceberg
from selfimprove_dagster.cli.generate import generate
from selfimprove_dagster.cli.lineage import lineage_app
from selfimprove_dagster.cli.review import review_app
from selfimprove_dagster.cli.running import resumable
from selfimprove_dagster.cli.seeds import seeds_app
from selfimprove_dagster.errors import NotReadyYet, SelfImproveError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.text import plain

app = typer.Typer(
    cls=Commands,
    help="Train language models on their own data, with every training example traceable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


app.add_typer(seeds_app, name="seeds")


app.add_typer(lineage_app, name="lineage")


app.add_typer(review_app, name="review")


app.add_typer(checkpoints_app, name="checkpoints")


def main() -> None:
    """Run the command line. An error that a person can fix is printed without a traceback, with exit code 1."""
    # Importing Torch and Great Expectations creates a million permanent objects: with Python's default
    # thresholds a quarter of that time is spent on garbage collection.
    gc.set_threshold(100_000, 20, 20)
    code = 1

    def leave() -> None:
        """Exit at once: Python would free those objects one by one, which takes seconds."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    # Registered first, it runs last, after all other exit handlers.
    atexit.register(leave)
    try:
        app()
    except SelfImproveError as error:
        lines = "\n".join(map(plain, str(error).splitlines()))  # several problems are a list
        Console(stderr=True, highlight=False).print(
            f"error: {lines}", style="red", markup=False, soft_wrap=True
        )
        raise SystemExit(1) from None
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
        raise


@app.command()
@resumable
def run(
    experiment: ExperimentName,
    iterations: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after this many more iterations; default: only by the budget."),
    ] = None,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Only forecast tokens, time, money, disk and memory, from a pilot or from earlier iterations.",
        ),
    ] = False,
) -> None:
    """Run iterations until a stopping rule applies. Resumes an interrupted run."""
    from selfimprove_dagster import registry
    from selfimprove_dagster.cli.running import run_loop
    from selfimprove_dagster.readiness.check import check_ready
    from selfimprove_dagster.readiness.engines import promises

    home = Home.from_environment()
    chain = home.chain(experiment)
    settled = chain[0]
    for one in chain:
        of = f"{one.method} of " if len(chain) > 1 else ""
        console.print(
            f"{of}experiment {one.name} (preset {one.preset}). Differences of the preset from the paper, "
            "unless the experiment's file overrides them:",
            soft_wrap=True,
        )
        for deviation in registry.method(one.method).all_presets[one.preset].all_deviations:
            console.print(f"  - {deviation}", markup=False)
        warn = partial(console.print, style="yellow", markup=False, soft_wrap=True)
        try:
            check_ready(home, one, warn)
        except NotReadyYet as error:
            if estimate:
                raise
            warn(str(error))  # the loop tries as often as the experiment says
    for promise in dict.fromkeys(promise for one in chain for promise in promises(one)):
        console.print(promise, markup=False, soft_wrap=True)
    if estimate:
        from selfimprove_dagster.cli.estimate import show_estimate

        show_estimate(home, settled)
        return
    run_loop(home, experiment, iterations)


@app.command()
def fields(
    method: Annotated[
        str | None,
        typer.Argument(
            help="Name of a method, as in `method: lmsi`; default: the method of files that name none."
        ),
    ] = None,
) -> None:
    """List every field of a method's experiment file, its meaning, and its value in each preset."""
    from selfimprove_dagster.home.files import describe_fields

    table = Table(
        Column("field", no_wrap=True),
        *(Column(name, overflow="fold") for name in ("paper", "practical", "meaning")),
    )
    for field in describe_fields(method):
        table.add_row(field.name, field.paper, field.practical, field.description)
    console.print(table)


@app.command()
def prompts(method: Annotated[str, typer.Argument(help="Name of a method, as in `method: lmsi`.")]) -> None:
    """Print a method's prompts as YAML, to copy, change and name in `prompts.file` of an experiment."""
    from selfimprove_dagster import registry

    for path in registry.method(method).prompts:
        typer.echo(path.read_text(encoding="utf-8"))


@app.command()
def filters() -> None:
    """Print the filters that an experiment may list under `filters`, with their settings."""
    from selfimprove_dagster.filtering.registry import described

    for line in described():
        typer.echo(line)


@app.command()
def status(
    experiment: ExperimentName,
    as_json: Annotated[bool, typer.Option("--json", help="Print the state as JSON, for programs.")] = False,
) -> None:
    """Print the table of an experiment's iterations, its warnings, and what it is doing."""
    from selfimprove_dagster.cli.status import print_status, status_json

    home = Home.from_environment()
    if as_json:
        typer.echo(status_json(home.lake, home.chain(experiment)))
    else:
        print_status(home.lake, home.chain(experiment))


@app.command()
def compare(
    experiments: Annotated[list[str], typer.Argument(help="Names of experiments.")],
    out: Annotated[Path | None, typer.Option(help="Also write the table to this file, as Markdown.")] = None,
) -> None:
    """Compare experiments: scores, cost, diversity, and drops per rule.

    Held-out accuracy is given for the initial model of each experiment and for its latest champion, on the
    experiment's own evaluation set. Model time covers generation and scoring. `distinct` is the fraction of
    distinct word 4-grams in the training text.
    """
    from selfimprove_dagster.loop.comparison import markdown, side_by_side, summarise

    home = Home.from_environment()
    rows = side_by_side([summarise(home.lake, one) for name in experiments for one in home.chain(name)])
    (*narrow, _), *others = rows
    table = Table(*(Column(name, overflow="fold") for name in narrow))
    for *row, _ in others:
        table.add_row(*row)
    console.print(table)
    for name, *_, dropped in others:
        console.print(f"{name} dropped: {dropped}", markup=False)
    if out is not None:
        out.write_text(markdown(rows), encoding="utf-8")


@app.command()
def evaluate(
    experiment: ExperimentName,
    model: Annotated[
        str | None,
        typer.Option(help="Model folder, Hugging Face Hub name, or `embedded`; default: the champion."),
    ] = None,
) -> None:
    """Measure a model on the evaluation set of an experiment."""
    from selfimprove_dagster import registry
    from selfimprove_dagster.cli.status import print_failed_answers
    from selfimprove_dagster.evaluation.exam import accuracy_of_rows
    from selfimprove_dagster.experiment.base import GREEDY, JUDGED
    from selfimprove_dagster.experiment.opening import opening_options
    from selfimprove_dagster.experiment.sections import ModelSection
    from selfimprove_dagster.home.exams import open_exam
    from selfimprove_dagster.language_model import open_language_model
    from selfimprove_dagster.language_model.base import LanguageModel
    from selfimprove_dagster.language_model.paid import PAID
    from selfimprove_dagster.loop.champion import NEWEST, champion_before
    from selfimprove_dagster.loop.taint import tainted_models
    from selfimprove_dagster.work.budget import dollars
    from selfimprove_dagster.work.progress import ProgressReport

    home = Home.from_environment()
    settled = home.experiment(experiment)
    champion = champion_before(home.lake, settled, NEWEST)

    def open_model(path: str, section: ModelSection | None = None) -> closing[LanguageModel]:
        return closing(open_language_model(path, **opening_options(section or settled.model, path)))

    path = model or champion.path
    if path == "embedded":
        path = str(registry.method(settled.method).embedded.get(("model", "path"), path))
    opened = open_exam(home, settled, open_model)
    with (
        open_model(path) as examinee,
        ProgressReport("evaluation", opened.exam.paths, "answers", lambda line: None) as report,
    ):
        rows = opened.exam.sit(examinee, report.advance)
    if (judge := opened.exam.judge) is not None:
        with judge.open() as judging:
            verdicts = judge.verdicts(judging, {"model": [row for row in rows if row["mode"] == GREEDY]})
        rows += verdicts
    table = Table(title=f"{plain(model, 80) if model else champion.name} on {settled.name}")
    for heading in ("mode", "difficulty", "accuracy"):
        table.add_column(heading)
    for mode, difficulty, measured in accuracy_of_rows(rows):
        table.add_row(mode, difficulty, str(measured))
    console.print(table if rows else "nothing was measured: the evaluation set has no question")
    PAID.settle()
    if PAID.money:
        console.print(f"cost: {dollars(PAID.money)}", markup=False)
    print_failed_answers(rows)
    if judge is not None and not any(row["mode"] == JUDGED for row in rows):
        console.print(
            "The judge compares two models and cannot judge one alone: set evaluation.judge.by to rating for that."
        )
    for tainted, reason in tainted_models(home.lake, settled.name).items():
        console.print(f"tainted: {tainted}: {reason}", style="red", markup=False, soft_wrap=True)
    if opened.rejected:
        console.print(
            f"{len(opened.rejected):,} lines of the evaluation file were rejected; "
            f"the first: {plain(str(opened.rejected[0]), 200)}",
            markup=False,
        )


app.command()(generate)


app.command()(export)
app.command()(iceberg)


PagesPort = Annotated[int, typer.Option(min=1, max=65535, help="Port of the lineage pages.")]


@app.command()
def pages(
    port: PagesPort = 3001,
    dagster_url: Annotated[
        str, typer.Option(envvar="SELFIMPROVE_DAGSTER_URL", help="Base URL for links to Dagster.")
    ] = "http://127.0.0.1:3000",
) -> None:
    """Serve the lineage pages on this machine only, until Ctrl-C."""
    from selfimprove_dagster.explorer.server import LOCAL, review_address, serve_pages

    token, review = review_address(port)
    console.print(f"lineage pages  http://{LOCAL}:{port}\nreview queue   {review}", markup=False)
    serve_pages(Home.from_environment(), port, dagster_url, token=token)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Dagster.")] = 3000,
    pages_port: PagesPort = 3001,
) -> None:
    """Start Dagster and the lineage pages on this machine only, until Ctrl-C or until one of them exits."""
    from selfimprove_dagster.explorer.server import (
        LOCAL,
        dagster_command,
        listen,
        review_address,
        serve_pages,
    )
    from selfimprove_dagster.runs import prepare_dagster_ui

    home = Home.from_environment()
    listen(port).close()
    prepare_dagster_ui(home)
    dagster_url = f"http://{LOCAL}:{port}"
    os.environ["SELFIMPROVE_PAGES_URL"] = f"http://{LOCAL}:{pages_port}"
    token, review = review_address(pages_port)
    pages_url = os.environ["SELFIMPROVE_PAGES_URL"]
    console.print(
        f"Dagster        {dagster_url}\nlineage pages  {pages_url}\nreview queue   {review}", markup=False
    )
    serve_pages(home, pages_port, dagster_url, beside=dagster_command(port), token=token)


if __name__ == "__main__":
    main()
