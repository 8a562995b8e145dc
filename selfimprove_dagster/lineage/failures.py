"""Find the rows that could not be generated or scored, and the lines of the files behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.words import SHOWN, count
from selfimprove_dagster.work.tolerance import asked_in, has_failed


@dataclass(frozen=True)
class FailedPrompt:
    """A prompt that could not be continued or scored: where its seed is from (else the id of a row), and the problem.

    `rows` is the number of rows of the table, each a `noun`, that failed because of it.
    """

    table: str
    iteration: int
    place: str
    problem: str
    rows: int
    noun: str = "completion"

    def __str__(self) -> str:
        return f"{self.place}: {self.problem} ({count(self.rows, self.noun)} of {self.table})"


def seed_places(lake: Lake, rows: pl.DataFrame) -> dict[str, str]:
    """Return `<file>, line <line>` of the nearest imported ancestor of each row (`id`, `parents`), by its id.

    Demonstrations are not followed. Rows without such an ancestor are left out.
    """
    lineage = Lineage(lake)
    places: dict[str, str] = {}
    for id, parents in rows.select("id", "parents").iter_rows():
        ahead = [edge["id"] for edge in parents if edge["role"] != SHOWN]
        seen = set(ahead)
        while ahead:
            found = lineage.rows(ahead, withdrawn=True)
            at = (found[one] for one in ahead if one in found and found[one].get("source_file"))
            if (source := next(at, None)) is not None:
                places[id] = f"{source['source_file']}, line {source['source_line']}"
                break
            parents_of = (edge for row in found.values() for edge in row["parents"] if edge["role"] != SHOWN)
            ahead = [one for one in dict.fromkeys(edge["id"] for edge in parents_of) if one not in seen]
            seen.update(ahead)
    return places


def failed_prompts(lake: Lake, experiment: str) -> Iterator[FailedPrompt]:
    """Yield the prompts of an experiment that could not be continued or scored, table by table as they were made.

    Rows that were made from failed ones are left out, and so are verdicts on failed answers.
    """
    known, failed_ids = registry.tables(), set[str]()
    for manifest in sorted(lake.manifests(experiment=experiment), key=lambda one: one.committed_at):
        table = known.get(manifest.table)
        failed = has_failed(table) if table else None
        if table is None or failed is None:
            continue
        rows = lake.scan_ungated(manifest)
        if "problem" not in (present := rows.collect_schema().names()):
            continue  # written by an earlier version
        source = [name for name in ("source_file", "source_line") if name in present]
        found = (
            rows.filter(failed).select("id", "parents", "problem", *source, asked=asked_in(table)).collect()
        )
        if found.is_empty():
            continue
        failed_ids.update(found["id"])
        made_from = found.select("id", one=pl.col("parents").list.eval(pl.element().struct.field("id")))
        later = made_from.explode("one").filter(pl.col("one").is_in(failed_ids))
        first = found.join(later, on="id", how="anti", maintain_order="left")
        by = source or ["asked"]
        prompts = first.group_by(by, maintain_order=True).agg(
            pl.col("id", "parents", "problem").first(), rows=pl.len()
        )
        places = _own_places(prompts) if source else seed_places(lake, prompts)
        for row in prompts.iter_rows(named=True):
            yield FailedPrompt(
                manifest.table,
                manifest.iteration,
                places.get(row["id"], row["id"]),
                row["problem"] or "no reason was recorded",
                row["rows"],
                table.noun,
            )


def _own_places(rows: pl.DataFrame) -> dict[str, str]:
    """Return `<file>, line <line>` of rows that are from a file themselves, by id."""
    return {
        id: f"{file}, line {line}"
        for id, file, line in rows.select("id", "source_file", "source_line").rows()
    }
