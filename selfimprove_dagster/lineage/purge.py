"""Purge: what was revoked is removed from the disk, text and all; ids alone stay on record.

Every partition that holds fallen rows is committed again without them. Killed midway, it is run again and
goes on. What stays beyond its reach is listed in `OUT_OF_REACH`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.disk import file_system_errors
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import held, read_parquet
from selfimprove_dagster.lake.revocations import Revocation, edges_of, fall, now

TELLING = 24
"""Characters from which on a text is long enough to be looked for after the purge."""


OUT_OF_REACH = (
    "exports and copies that were made before, the inbox and the original files",
    "previews in Dagster's event log and its compute logs",
    "the weights of tainted checkpoints: delete their folders to be rid of them",
    "backups, and blocks that the file system has freed but not overwritten",
)


@dataclass(frozen=True)
class Remainder:
    """A column in which a purged text still stands, in rows that do not descend from it."""

    table: str
    column: str
    rows: int
    example: str


@dataclass(frozen=True)
class Purged:
    """Rows removed by table, leftover files removed, texts looked for, and where some still stand."""

    rows: dict[str, int]
    leftovers: int
    texts: int
    remainders: list[Remainder]


def purge(lake: Lake, revocation: Revocation) -> Purged:
    """Remove the rows that fell with a revocation from the disk.

    Raises PartitionBusy when another process is writing a partition that holds some; what was removed
    until then stays so.
    """
    with lake.ledger.lock():  # from here on it cannot be lifted, and no commit brings its rows back
        if "purging" not in revocation.events:
            lake.ledger.note(revocation.id, "purging", {"at": now()})
    ids = lake.ledger.all_withdrawn().filter(revocation=revocation.id)["id"].unique()
    texts: set[str] = set()
    rows: dict[str, int] = {}
    for manifest in lake.manifests():
        if lake.ledger.withdrawn(manifest.activity.id).is_empty():
            continue
        fallen = lake.read_whole(manifest).filter(pl.col("id").is_in(ids.implode()))
        if not fallen.is_empty():
            texts |= _telling(fallen)
            rows[manifest.table] = rows.get(manifest.table, 0) + len(fallen)
            with lake.writer(registry.table_of(manifest), manifest.activity) as writer:
                writer.rewrite_without(lake.manifest(manifest.table, manifest.partition), ids)
    leftovers = _remove_leftovers(lake)
    lake.refresh_catalog()
    remainders = list(_remainders(lake, sorted(texts)))
    if "purged" not in revocation.events:
        lake.ledger.note(revocation.id, "purged", {"at": now(), "rows": rows})
    return Purged(rows, leftovers, len(texts), remainders)


def _telling(rows: pl.DataFrame) -> set[str]:
    """What the rows say in words; ids and hashes, names of files, licences and rules are no text."""
    named = {"question", "prompt", "text", "completion", "reasoning", "excerpt"}
    named |= {"instruction", "input", "output", "paraphrase"}
    named |= {"response", "chosen", "rejected", "first", "second"}
    return {
        text
        for column in named & set(rows.columns)
        for text in rows[column].drop_nulls().unique()
        if len(text) >= TELLING
    }


def _remainders(lake: Lake, texts: list[str]) -> Iterator[Remainder]:
    """Columns of the lake that hold any of the texts, be it within a longer one."""
    if not texts:
        return
    for manifest in lake.manifests():
        rows = lake.read_whole(manifest)
        for column in [name for name, dtype in rows.schema.items() if dtype == pl.String]:
            found = rows.filter(pl.col(column).str.contains_any(texts))
            if not found.is_empty():
                yield Remainder(manifest.table, column, len(found), found["id"][0])


def _remove_leftovers(lake: Lake) -> int:
    """Delete shards of killed runs that hold rows which fell; returns how many. No manifest names them."""
    withdrawn = lake.ledger.all_withdrawn()
    named = {path for manifest in lake.manifests() for path in manifest.paths}
    removed = 0
    for directory in sorted(lake.root.glob("*/*/experiment=*/*")):
        loose = sorted({*directory.glob("*.parquet"), *directory.glob(".*.tmp")} - named)
        for path in loose:
            with held(directory):
                if path.is_file() and _holds_fallen(path, withdrawn):
                    with file_system_errors(path):
                        path.unlink()
                    removed += 1
    return removed


def _holds_fallen(path: Path, withdrawn: pl.DataFrame) -> bool:
    try:
        rows = read_parquet(path, ["id", "parents"])
    except pl.exceptions.PolarsError:
        return True  # half written: nothing can be read from it, and nothing is lost with it
    return not fall(edges_of(rows), withdrawn).join(rows, on="id", how="semi").is_empty()
