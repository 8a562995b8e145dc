"""The commands `selfimprove seeds`: import seeds, and show how a source will be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from selfimprove_dagster.cli.console import Commands, ExperimentName, console
from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.seeds.kind import SeedKind
from selfimprove_dagster.shared_tables import REJECTED_SEEDS

seeds_app = typer.Typer(
    cls=Commands, help="Import seeds, or see how a file will be read.", no_args_is_help=True
)

SHOWN = 3
"""Rows that `inspect` shows of each kind."""

LOOKED_AT = 1_000
"""Rows that `inspect` reads at most."""

Source = Annotated[
    Path,
    typer.Argument(
        help="A file (JSON Lines, JSON, CSV, TSV, Parquet or text; .gz or .zst), a folder, a pattern, or a data set of "
        "the Hugging Face Hub: hf:owner/name/split@commit."
    ),
]


@seeds_app.command("import")
def import_(experiment: ExperimentName, file: Source) -> None:
    """Import seeds. Valid lines become seeds; rejected ones are listed with file, line and reason."""
    from selfimprove_dagster.cli.status import print_rejected
    from selfimprove_dagster.home.imports import import_file

    home = Home.from_environment()
    settled = home.experiment(experiment)
    manifest, accepted, rejected = import_file(home.lake, settled, file)
    console.print(f"{accepted:,} seeds imported, {rejected:,} lines rejected")
    bad = home.lake.manifest(REJECTED_SEEDS.name, manifest.partition)
    print_rejected(home.lake.read_ungated(bad), 10)
    if rejected and not accepted:
        console.print(
            "no line became a seed: `selfimprove seeds inspect` shows how the file is read", markup=False
        )
        raise typer.Exit(1)


@seeds_app.command()
def rejected(experiment: ExperimentName) -> None:
    """Print all rejected lines of all imports of an experiment, with file, line and reason."""
    from selfimprove_dagster.cli.status import print_rejected

    home = Home.from_environment()
    home.experiment(experiment)
    found = home.lake.manifests(REJECTED_SEEDS.name, experiment)
    lines = sum(one.rows for one in found)
    console.print(f"{lines:,} rejected lines of {len(found):,} imports")
    for manifest in found:
        print_rejected(home.lake.read_ungated(manifest))


@seeds_app.command()
def inspect(
    file: Source,
    experiment: Annotated[
        str | None,
        typer.Option(help="Read it with the settings of this experiment; default: as any method reads it."),
    ] = None,
) -> None:
    """Show which format a source has, and three rows as they will be read. Nothing is imported."""
    from selfimprove_dagster.hub_rows import streamed
    from selfimprove_dagster.rows import read_rows
    from selfimprove_dagster.seeds.formats import format_of

    with streamed():
        rows = [row for _, row in islice(read_rows(file), LOOKED_AT)]
        if not rows:
            console.print(f"{file} has no rows", markup=False)
        for name, count in Counter(map(format_of, rows)).most_common(5):
            console.print(
                f"format: {name} ({count:,} of the first {len(rows):,} rows)", markup=False, soft_wrap=True
            )
        for title, found in _readings(file, experiment) if rows else ():
            _print_reading(title, found)


def _readings(file: Path, experiment: str | None) -> Iterator[tuple[str, Iterator[Any]]]:
    """Yield the ways to read a source: a title, and the rows and rejected lines."""
    from selfimprove_dagster import registry
    from selfimprove_dagster.experiment.sections import section_in
    from selfimprove_dagster.home.imports import import_source, seeds_of
    from selfimprove_dagster.text import plural

    if experiment is not None:
        settled = Home.from_environment().experiment(experiment)
        yield f"for the experiment {experiment}", seeds_of(settled).kind.read(import_source(settled, file))
        return
    readers: dict[int, tuple[SeedKind, Any, list[str]]] = {}
    for method in registry.methods().values():
        field = method.experiment.model_fields.get("seeds")
        section: Any = section_in(field.annotation) if field and method.seeds else None
        if method.seeds is not None and section is not None and "file" in section.model_fields:
            kind = method.seeds.kind
            readers.setdefault(id(kind), (kind, section, []))[2].append(method.name)
    for kind, section, names in readers.values():
        title = f"as {plural(kind.table.noun)} of {', '.join(names)}"
        yield title, kind.read(section(file=str(file)))


def _print_reading(title: str, found: Iterator[Any]) -> None:
    from selfimprove_dagster.rows import Rejected
    from selfimprove_dagster.text import plain

    accepted: list[Any] = []
    rejected: list[Rejected] = []
    try:
        for row in islice(found, LOOKED_AT):
            (rejected if isinstance(row, Rejected) else accepted).append(row)
            if len(accepted) == SHOWN:
                break
    except SelfImproveError as error:
        console.print(f"{title}: {error}", markup=False)
        return
    if not accepted:
        reason = f": line {rejected[0].source_line}: {rejected[0].reason}" if rejected else ""
        console.print(f"{title}: no row can be read{plain(reason, 300)}", markup=False, soft_wrap=True)
        return
    console.print(f"{title}:", markup=False)
    for row in accepted:
        console.print(f"  {row['source_file']}, line {row['source_line']}", markup=False)
        for name, value in row.items():
            if name not in ("source_file", "source_line", "licence") and value not in (None, [], ""):
                console.print(f"    {name}: {plain(str(value), 400)}", markup=False, soft_wrap=True)
    for line in rejected[:SHOWN]:
        console.print(
            f"  rejected: {line.source_file}, line {line.source_line}: {plain(line.reason, 300)}",
            markup=False,
            soft_wrap=True,
        )
