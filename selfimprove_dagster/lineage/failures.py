"""Find the rows that could not be generated or scored, and the lines of the files behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.table import LEFT_OUT, PARENT, Row, Table
from selfimprove_dagster.words import SHOWN, count
from selfimprove_dagster.work.tolerance import asked_in, has_failed


@dataclass(frozen=True)
class FailedPrompt:
    """A prompt that could not be continued or scored: where its seed is from (else the id of a row), and the problem.

    `rows` is the number of rows of the table that failed because of it.
    """

    table: str
    iteration: int
    place: str
    problem: str
    rows: int

    def __str__(self) -> str:
        return f"{self.place}: {self.problem} ({count(self.rows, 'row')} of {self.table})"


def seed_places(lake: Lake, rows: pl.DataFrame) -> dict[str, str]:
    """Return `<file>, line <line>` of the nearest imported ancestor of each row (`id`, `parents`), by its id.

    Demonstrations are followed where there is no other ancestor: of several, the longest is named. Rows without an
    imported ancestor are left out.
    """
    lineage = Lineage(lake)
    places: dict[str, str] = {}
    for id, parents in rows.select("id", "parents").iter_rows():
        found = _sources(lineage, parents, shown=False) or _sources(lineage, parents, shown=True)
        if found:
            longest = max(found, key=_characters)
            places[id] = f"{longest['source_file']}, line {longest['source_line']}"
    return places


def _sources(lineage: Lineage, parents: Sequence[Mapping[str, str]], shown: bool) -> list[Row]:
    """Return the nearest imported ancestors, of the same distance; through demonstrations if they are `shown`."""

    def followed(edges: Iterable[Mapping[str, str]]) -> list[str]:
        return [edge["id"] for edge in edges if shown or edge["role"] != SHOWN]

    ahead, seen = followed(parents), set[str]()
    while ahead:
        seen.update(ahead)
        rows = lineage.rows(ahead, withdrawn=True)
        if sources := [rows[one] for one in ahead if one in rows and rows[one].get("source_file")]:
            return sources
        edges = (edge for row in rows.values() for edge in row["parents"])
        ahead = [one for one in dict.fromkeys(followed(edges)) if one not in seen]
    return []


def _characters(row: Row) -> int:
    """Return how long the texts of a row are, those of its fields included."""
    return sum(len(str(value)) for value in row.values())


def failed_prompts(lake: Lake, experiment: str) -> Iterator[FailedPrompt]:
    """Yield the prompts of an experiment that could not be continued, scored or trained on, in the order of tables.

    The rows of one place in a file are named once an iteration, by the first table in which they failed.
    """
    known, named = registry.tables(), set[tuple[int, str]]()
    for manifest in sorted(lake.manifests(experiment=experiment), key=lambda one: one.committed_at):
        if (table := known.get(manifest.table)) is None:
            continue
        found = _failed_rows(lake, manifest, table)
        if found.is_empty():
            continue
        has_source = "source_file" in found.columns
        by = pl.struct("source_file", "source_line") if has_source else pl.col("asked")
        prompts = found.group_by(by.alias("by"), maintain_order=True).agg(
            pl.exclude("by", "asked").first(), rows=pl.len()
        )
        places = _own_places(prompts) if has_source else seed_places(lake, prompts)
        for row in prompts.iter_rows(named=True):
            place = places.get(row["id"], row["id"])
            if (manifest.iteration, place) not in named:
                named.add((manifest.iteration, place))
                yield FailedPrompt(manifest.table, manifest.iteration, place, row["problem"], row["rows"])


def _failed_rows(lake: Lake, manifest: Manifest, table: Table) -> pl.DataFrame:
    """Return the failed rows of a partition: `id, parents, problem`, what they were `asked`, and where they are from.

    Of a trained model these are the examples that were left out.
    """
    failed, rows = has_failed(table), lake.scan_ungated(manifest)
    present = rows.collect_schema().names()  # earlier versions wrote no problems
    if table.holds_model and LEFT_OUT in present:
        examples = rows.select(pl.col(LEFT_OUT)).explode(LEFT_OUT, empty_as_null=False).unnest(LEFT_OUT)
        left_out = examples.collect()
        parents = [[{"id": id, "role": ""}] for id in left_out["id"]]
        return left_out.with_columns(asked="id", parents=pl.Series(parents, dtype=pl.List(PARENT)))
    if failed is None or "problem" not in present:
        return pl.DataFrame()
    source = [name for name in ("source_file", "source_line") if name in present]
    return rows.filter(failed).select("id", "parents", "problem", *source, asked=asked_in(table)).collect()


def _own_places(rows: pl.DataFrame) -> dict[str, str]:
    """Return `<file>, line <line>` of rows that are from a file themselves, by id."""
    columns = rows.select("id", "source_file", "source_line")
    return {id: f"{file}, line {line}" for id, file, line in columns.rows()}
