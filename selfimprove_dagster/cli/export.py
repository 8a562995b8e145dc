"""`selfimprove export`: write a dataset or a checkpoint for other tools, or push it to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from selfimprove_dagster.cli.console import ExperimentName, console
from selfimprove_dagster.home.home import Home

if TYPE_CHECKING:
    from selfimprove_dagster.experiment.base import Experiment
    from selfimprove_dagster.export import Exported


def export(
    experiment: ExperimentName,
    output: Annotated[
        Path | None, typer.Argument(help="Folder to write, which must not exist yet; left out with --push.")
    ] = None,
    iteration: Annotated[
        int | None,
        typer.Option(min=0, help="Index of the iteration; default: the latest, or that of the champion."),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            help="huggingface (with a dataset card), parquet, jsonl, prov-json (jsonl with PROV), chat, sharegpt, "
            "alpaca, preference, or checkpoint (a trained model with its card)."
        ),
    ] = "huggingface",
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Push it with its card to this repository of the Hugging Face hub, with the token in HF_TOKEN.",
        ),
    ] = None,
    merged: Annotated[
        bool,
        typer.Option(
            "--merged",
            help="With --format checkpoint: write an adapter merged into its base, as a whole model.",
        ),
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="A new repository is public; default: private.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what --push would push, and ask nobody.")
    ] = False,
) -> None:
    """Export a filtered dataset or a trained checkpoint in a format that other tools read."""
    if (output is None) == (push is None):
        raise typer.BadParameter("give the folder OUTPUT or --push OWNER/NAME")
    if push is None and (public or dry_run):
        raise typer.BadParameter("--public and --dry-run belong to --push")
    if merged and format != "checkpoint":
        raise typer.BadParameter("--merged belongs to --format checkpoint")
    home = Home.from_environment()
    settled = home.experiment(experiment)
    if output is not None:
        exported = _write(home, settled, output, iteration, format, merged=merged)
        what = f"{len(exported.records):,} examples" if exported.model_id is None else exported.model_id
        console.print(f"{what} written to {output}", markup=False)
        if exported.note:
            console.print(exported.note, markup=False)
        return
    assert push is not None
    from selfimprove_dagster import hub

    with TemporaryDirectory(prefix="selfimprove-") as temporary:
        folder = Path(temporary) / "export"
        exported = _write(home, settled, folder, iteration, format, pushed=True, merged=merged)
        if dry_run:
            _show(folder, exported, push, public)
            return
        done = hub.push(home, folder, exported, push, private=not public)
    console.print(f"pushed to {done.place}", markup=False, soft_wrap=True)


def iceberg(
    table: Annotated[str, typer.Argument(help="Table of the lake: METHOD/STAGE.")],
    warehouse: Annotated[Path, typer.Argument(help="Folder of the Iceberg tables; made if it is missing.")],
    experiment: Annotated[
        str | None, typer.Option(help="Rows of this experiment only; default: of all experiments.")
    ] = None,
    catalog: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Property of a catalogue as pyiceberg takes it, e.g. type=rest and uri=…; may be repeated. Default: a "
            "file of SQLite in the warehouse.",
        ),
    ] = None,
) -> None:
    """Make an Iceberg table of a table of the lake, without copying its files; run it again to bring it up to date."""
    from selfimprove_dagster.lake.iceberg import export_iceberg

    properties = dict(one.partition("=")[::2] for one in catalog or ())
    if wrong := [name for name, value in properties.items() if not value]:
        raise typer.BadParameter(f"--catalog takes KEY=VALUE, and {wrong[0]} has no value")
    lake = Home.from_environment().lake
    made = export_iceberg(lake, table, warehouse, experiment or "*", properties)
    console.print(
        f"{made.identifier}: {made.rows:,} rows in {made.files:,} files; {made.added:,} files added, {made.removed:,} "
        f"taken out; {made.rewritten:,} of them rewritten, the others are those of the lake",
        markup=False,
        soft_wrap=True,
    )
    if made.closed:
        console.print(f"{made.closed:,} partitions were left out: blocking checks of them failed")


def _write(
    home: Home,
    settled: Experiment,
    folder: Path,
    iteration: int | None,
    layout: str,
    *,
    pushed: bool = False,
    merged: bool = False,
) -> Exported:
    from selfimprove_dagster.export import CHECKPOINT, export_checkpoint, export_dataset

    if layout == CHECKPOINT:
        return export_checkpoint(home.lake, settled, folder, iteration, copy=not pushed, merged=merged)
    return export_dataset(home.lake, settled, folder, iteration, layout, card=pushed or None)


def _show(folder: Path, exported: Exported, repo: str, public: bool) -> None:
    """Print what a push would upload: the files with their sizes, the records and the card."""
    from selfimprove_dagster.export import CARD
    from selfimprove_dagster.hub import files_of
    from selfimprove_dagster.text import readable

    kind = "dataset" if exported.model_id is None else "model"
    console.print(
        f"Nothing was pushed. To the {kind} {repo} ({'public' if public else 'private'}, if it is new) would go "
        f"{len(exported.records):,} records of {exported.manifest.table}, iteration {exported.manifest.iteration}:",
        markup=False,
        soft_wrap=True,
    )
    for name, path in files_of(folder).items():
        console.print(f"  {name}  {path.stat().st_size:,} bytes", markup=False, soft_wrap=True)
    console.print()
    console.print(readable((folder / CARD).read_text(encoding="utf-8")), markup=False, soft_wrap=True)
