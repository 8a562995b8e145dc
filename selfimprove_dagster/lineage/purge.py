"""Purge revoked records: delete their text from the disk and keep only their ids.

Every partition with revoked rows is committed again without them. An interrupted purge resumes when it is run
again. `out_of_reach` lists what a purge cannot delete.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.disk import file_system_errors
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import held, loose_files, partition_folders, read_parquet
from selfimprove_dagster.lake.revocations import Revocation, edges_of, fall, now
from selfimprove_dagster.language_model.paid import Journal

TELLING = 24
"""Minimum length, in characters, of a text that is searched for after the purge."""


OUT_OF_REACH = (
    "exports and copies that were made before, the inbox and the original files",
    "previews in Dagster's event log and its compute logs",
    "the weights of tainted checkpoints, and copies into which they were merged: delete their folders to remove them",
    "backups, and blocks that the file system has freed but not overwritten",
)


OUT_OF_REACH_OF_A_STORE = (
    "copies of the object store on other machines: each deletes those of the lake when it reads the lake the next time",
    "earlier versions of objects, in a bucket that keeps them",
)
"""What a purge cannot delete, in addition, if the home is in an object store."""


def out_of_reach(lake: Lake) -> tuple[str, ...]:
    """Return what a purge of this lake cannot delete."""
    return (*OUT_OF_REACH, *(OUT_OF_REACH_OF_A_STORE if lake.store.address else ()))


@dataclass(frozen=True)
class Remainder:
    """A column that still contains a purged text, in rows that do not descend from it."""

    table: str
    column: str
    rows: int
    example: str


@dataclass(frozen=True)
class Purged:
    """The removed rows by table, removed leftover files, searched texts, and columns that still hold some."""

    rows: dict[str, int]
    leftovers: int
    texts: int
    remainders: list[Remainder]


def purge(lake: Lake, revocation: Revocation) -> Purged:
    """Remove the rows of a revocation from the disk.

    Raises PartitionBusy if another process is writing an affected partition; rows that were removed until
    then stay removed.
    """
    with lake.ledger.lock():  # from here on the revocation cannot be lifted, and no commit restores its rows
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
    Journal.of_home().clear()  # its answers do not name what they were made from
    lake.refresh_catalog()
    remainders = list(_remainders(lake, sorted(texts)))
    if "purged" not in revocation.events:
        lake.ledger.note(revocation.id, "purged", {"at": now(), "rows": rows})
    return Purged(rows, leftovers, len(texts), remainders)


def _telling(rows: pl.DataFrame) -> set[str]:
    """Return the texts of the rows, without ids, hashes, file names, licences and rules."""
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
    """Yield columns of the lake that contain any of the texts, also as part of a longer one."""
    if not texts:
        return
    for manifest in lake.manifests():
        rows = lake.read_whole(manifest)
        for column in [name for name, dtype in rows.schema.items() if dtype == pl.String]:
            found = rows.filter(pl.col(column).str.contains_any(texts))
            if not found.is_empty():
                yield Remainder(manifest.table, column, len(found), found["id"][0])


def _remove_leftovers(lake: Lake) -> int:
    """Delete shards of killed runs that hold revoked rows, and return their number.

    No manifest names them.
    """
    withdrawn = lake.ledger.all_withdrawn()
    committed = {manifest.directory: manifest for manifest in lake.manifests()}
    removed = 0
    for directory in partition_folders(lake.root, "*", lake.store):
        for path in loose_files(directory, committed.get(directory), lake.store):
            with held(directory, lake.store):
                lake.store.bring([path])
                if path.is_file() and _holds_fallen(path, withdrawn):
                    with file_system_errors(path):
                        lake.store.delete(path)
                    removed += 1
    return removed


def _holds_fallen(path: Path, withdrawn: pl.DataFrame) -> bool:
    try:
        rows = read_parquet(path, ["id", "parents"])
    except pl.exceptions.PolarsError:
        return True  # half written: it cannot be read, and deleting it loses nothing
    return not fall(edges_of(rows), withdrawn).join(rows, on="id", how="semi").is_empty()
