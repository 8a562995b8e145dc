"""Find the completions that could not be generated, and the lines of the seed files behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster.filters.rules import FAILED
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.words import SHOWN, count

_COLUMNS = ("id", "parents", "prompt", "finish_reason", "problem")


@dataclass(frozen=True)
class FailedPrompt:
    """A prompt without a completion: where its seed is from (else the id of a row), and the problem in words.

    `rows` is the number of its completions that failed.
    """

    table: str
    iteration: int
    place: str
    problem: str
    rows: int

    def __str__(self) -> str:
        return f"{self.place}: {self.problem} ({count(self.rows, 'completion')} of {self.table})"


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
    """Yield the prompts of an experiment that could not be continued, table by table."""
    for manifest in lake.manifests(experiment=experiment):
        rows = lake.scan_ungated(manifest)
        if not {*_COLUMNS} <= {*rows.collect_schema().names()}:
            continue
        failed = rows.filter(pl.col("finish_reason").is_in(FAILED)).select(_COLUMNS).collect()
        if failed.is_empty():
            continue
        prompts = failed.group_by("prompt", maintain_order=True).agg(
            pl.col("id", "parents", "problem").first(), rows=pl.len()
        )
        places = seed_places(lake, prompts)
        for row in prompts.iter_rows(named=True):
            place = places.get(row["id"], row["id"])
            yield FailedPrompt(
                manifest.table,
                manifest.iteration,
                place,
                row["problem"] or "no reason was recorded",
                row["rows"],
            )
