"""`selfimprove checkpoints`: list the trained models of an experiment, prune their weights, or train them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from selfimprove_dagster import registry
from selfimprove_dagster.checkpoints.pruning import merged_copies, prune, to_rebuild, trained_models
from selfimprove_dagster.cli.console import Commands, ExperimentName, console
from selfimprove_dagster.errors import ExperimentError, ModelError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.language_model.weights import model_id, weight_bytes
from selfimprove_dagster.pruned import pruned
from selfimprove_dagster.text import plain

checkpoints_app = typer.Typer(
    cls=Commands, help="List, prune and rebuild trained models.", no_args_is_help=True
)


@checkpoints_app.command("list")
def list_(experiment: ExperimentName) -> None:
    """List the trained models of an experiment, with the size and the folder of their weights.

    An adapter over which another one was trained also has a copy that is merged into its base.
    """
    home = Home.from_environment()
    table = Table("iteration", "table", "weights", "promoted", "folder")
    for one in (one for settled in home.chain(experiment) for one in trained_models(home.lake, settled)):
        size = _megabytes(one.path)
        table.add_row(
            str(one.iteration),
            one.table,
            "pruned" if pruned(one.path) else size if one.path.is_dir() else "missing",
            ("yes" if one.promoted else "no") if one.is_checkpoint else "–",
            str(one.path),
        )
        for copy in merged_copies(one.path):
            table.add_row(str(one.iteration), f"{one.table}, merged", _megabytes(copy), "–", str(copy))
    console.print(table)


def _megabytes(folder: Path) -> str:
    return f"{weight_bytes(folder) / 1e6:,.1f} MB"


@checkpoints_app.command("prune")
def prune_(experiment: ExperimentName) -> None:
    """Delete the weights that `checkpoints.keep` does not keep, as each iteration does at its end."""
    console.print(str(prune(Home.from_environment(), experiment)), markup=False, soft_wrap=True)


@checkpoints_app.command()
def rebuild(
    experiment: ExperimentName,
    iteration: Annotated[int, typer.Option(min=0, help="Index of the iteration.")],
) -> None:
    """Train the models of an iteration whose weights were pruned again, from the data in the lake.

    They stay until the next iteration ends or `selfimprove checkpoints prune` is run.
    """
    from selfimprove_dagster.runs import run_iteration

    home = Home.from_environment()
    chain = home.chain(experiment)
    if not any(one.iteration == iteration for settled in chain for one in trained_models(home.lake, settled)):
        raise ExperimentError(
            f"iteration {iteration} of {experiment} trained no model; `selfimprove checkpoints list {experiment}` "
            "shows those that were trained"
        )
    found = [(settled, models) for settled in chain if (models := to_rebuild(home, settled, iteration))]
    if not found:
        console.print(f"no weights of iteration {iteration} of {experiment} were pruned", markup=False)
    for settled, models in found:
        trained = {one.table for one in models}
        stages = [
            stage
            for stage in registry.method(settled.method).stages
            if trained.intersection(table.name for table in stage.writes)
        ]
        tables = [table.name for stage in stages for table in stage.assets]
        if problems := run_iteration(home, settled, iteration, tables):
            for problem in problems:
                console.print(plain(problem), style="red", markup=False, soft_wrap=True)
            raise typer.Exit(1)
        for one in models:
            if (found_id := model_id(one.path)) != one.model_id:
                raise ModelError(
                    f"{one.path} was trained again and is {found_id}, not {one.model_id}: training gives equal weights "
                    "only on the same device with the same versions; materialise the later stages again"
                )
            console.print(f"{one.table} of iteration {iteration}: {one.path}", markup=False, soft_wrap=True)
