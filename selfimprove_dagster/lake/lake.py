"""The lake: Parquet tables that are committed atomically, and DuckDB views to read them.

    <root>/<method>/<stage>/experiment=…/iteration=…/
        part-<activity>-00000.parquet   shards, each written under a temporary name, fsynced, renamed
        manifest.json                   written last; names the shards, their checksums and the activity
        checks.json                     the last result of each quality check of that manifest
        .lock                           held by the one process that writes
    <root>/format.json                  the version of this layout, written before the first partition
    <root>/revocations/                 what was revoked, and the rows that are withdrawn since
    <root>/.lineage/                    the index of lineage, which may be deleted at any time
    <root>/catalog.duckdb               views for people, made anew after each commit

Parquet is the truth; what no manifest names does not exist. A stage that is killed leaves whole shards
behind, and the next attempt, if it is the same activity, goes on after them. DuckDB is how tables are read:
every connection is in memory, over views that list exactly the committed files, so no reader locks out
another and none ever waits for a writer.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl
from filelock import FileLock

from selfimprove_dagster.errors import GateClosed, LakeError, PartitionMissing
from selfimprove_dagster.lake.disk import file_checksum, file_system_errors, write_atomically
from selfimprove_dagster.lake.partition import (
    Manifest,
    Partition,
    PartitionWriter,
    ShardFile,
    Spent,
    edition_of,
    held,
    load_manifest,
    partition_of,
    read_parquet,
)
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.lake.revocations import Ledger
from selfimprove_dagster.lake.views import HIVE_TYPES, create_views
from selfimprove_dagster.table import Table

__all__ = [
    "CheckOutcome",
    "Lake",
    "Manifest",
    "Partition",
    "PartitionWriter",
    "ShardFile",
    "Spent",
    "file_checksum",
    "partition_of",
]


FORMAT = 1
"""The version of the layout that is written. A lake without `format.json` is of version 0, which reads alike."""


@dataclass(frozen=True)
class CheckOutcome:
    """The last result of one quality check on a partition."""

    name: str
    passed: bool
    blocking: bool
    reason: str


class Lake:
    """A folder of tables. Any number of processes may read it; one at a time writes a given partition.

    Raises LakeError for a folder that a later version of this package wrote.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        for part in self.root.parts:
            if part.split("=")[0] in HIVE_TYPES and "=" in part:
                raise LakeError(
                    f"a lake cannot lie under {part!r}: it would be read as a partition; name another folder"
                )
        self.ledger = Ledger(self.root)
        if (found := self.format) > FORMAT:
            raise LakeError(
                f"the lake {self.root} has format {found}, and this version of selfimprove_dagster reads formats up "
                f"to {FORMAT}: install the version that wrote it, or a later one"
            )

    @property
    def format(self) -> int:
        """The version of the lake's layout; 0 where nothing says it. Raises LakeError where it cannot be read."""
        file = self.root / "format.json"
        try:
            return int(json.loads(file.read_text(encoding="utf-8"))["format"])
        except FileNotFoundError:
            return 0
        except (ValueError, TypeError, KeyError):
            raise LakeError(
                f"{file} does not say the lake's format, such as {json.dumps({'format': FORMAT})}: put it back from "
                "a copy"
            ) from None

    # ---- reading -------------------------------------------------------------------------------------

    def manifest(self, table: str, partition: Partition) -> Manifest:
        """The committed manifest. Raises PartitionMissing where there is none."""
        directory = self._directory(table, partition)
        try:
            return load_manifest(directory / "manifest.json")
        except FileNotFoundError:
            where = ", ".join(f"{key} {value}" for key, value in partition.items())
            raise PartitionMissing(
                f"{table} has nothing committed for {where}; materialise it first"
            ) from None

    def exists(self, table: str, partition: Partition) -> bool:
        return (self._directory(table, partition) / "manifest.json").is_file()

    def unfinished(self, table: str = "*/*", experiment: str = "*") -> list[Path]:
        """Shards of partitions that a stage began and has not committed yet."""
        begun = self.root.glob(f"{table}/experiment={experiment}/*/part-*.parquet")
        return sorted(path for path in begun if not (path.parent / "manifest.json").is_file())

    def manifests(self, table: str = "*/*", experiment: str = "*") -> list[Manifest]:
        """All committed manifests, ordered by table and partition. `*` matches anything."""
        found = self.root.glob(f"{table}/experiment={experiment}/*/manifest.json")
        return [load_manifest(path) for path in sorted(found)]

    def read(self, table: str, partition: Partition) -> pl.DataFrame:
        """A partition's rows. Raises PartitionMissing, or GateClosed when a blocking check failed last."""
        manifest = self.manifest(table, partition)
        while True:
            self._refuse_if_gated(manifest)
            try:
                return self.read_ungated(manifest)
            except FileNotFoundError:
                replaced = self.manifest(table, partition)
                if replaced == manifest:
                    raise
                manifest = replaced  # since it was read: the new manifest names the new files

    def scan(self, table: str, partition: Partition) -> pl.LazyFrame:
        """A partition's rows, unread. Raises PartitionMissing, or GateClosed when a blocking check failed last."""
        manifest = self.manifest(table, partition)
        self._refuse_if_gated(manifest)
        return self.scan_ungated(manifest)

    def scan_ungated(self, manifest: Manifest) -> pl.LazyFrame:
        """The rows of `read_ungated`, unread."""
        rows = pl.scan_parquet(manifest.paths, hive_partitioning=False, glob=False)
        withdrawn = self.ledger.withdrawn(manifest.activity.id)
        if withdrawn.is_empty():
            return rows
        return rows.join(withdrawn.lazy(), on="id", how="anti", maintain_order="left")

    def read_ungated(self, manifest: Manifest) -> pl.DataFrame:
        """A partition's rows whatever its checks say: for checks, lineage and people."""
        rows, withdrawn = self.read_whole(manifest), self.ledger.withdrawn(manifest.activity.id)
        return (
            rows if withdrawn.is_empty() else rows.join(withdrawn, on="id", how="anti", maintain_order="left")
        )

    def read_columns(
        self, manifest: Manifest, names: Sequence[str], first: int | None = None
    ) -> pl.DataFrame:
        """Some columns of `read_ungated`, and only its `first` rows if asked for."""
        rows = self.scan_ungated(manifest)
        return (rows if first is None else rows.head(first)).select(names).collect()

    def live_rows(self, manifest: Manifest) -> int:
        """How many rows `read_ungated` gives."""
        if self.ledger.withdrawn(manifest.activity.id).is_empty():
            return manifest.rows
        return len(self.read_columns(manifest, ["id"]))

    def read_whole(self, manifest: Manifest) -> pl.DataFrame:
        """Every row on the disk, withdrawn or not: for walks along lineage, and to verify."""
        return pl.concat([read_parquet(path) for path in manifest.paths])

    def withdrawn(self, manifest: Manifest) -> dict[str, str]:
        """Ids of its rows that were withdrawn, each with a revocation that it fell with."""
        return dict(self.ledger.withdrawn(manifest.activity.id).iter_rows())

    def checks(self, manifest: Manifest) -> list[CheckOutcome]:
        """The last results of the checks of exactly this manifest's activity."""
        try:
            recorded = json.loads((manifest.directory / "checks.json").read_text())
        except FileNotFoundError:
            return []
        if recorded["activity_id"] != manifest.activity.id:
            return []
        return [CheckOutcome(**outcome) for outcome in recorded["outcomes"]]

    def _refuse_if_gated(self, manifest: Manifest) -> None:
        failed = [check for check in self.checks(manifest) if check.blocking and not check.passed]
        if failed:
            names = "; ".join(f"{check.name} ({check.reason})" for check in failed)
            where = ", ".join(f"{key} {value}" for key, value in manifest.partition.items())
            raise GateClosed(
                f"{manifest.table} of {where} is not handed on, since its blocking check failed: {names}. "
                "Materialise it again, or mend its input, then re-run its checks."
            )

    # ---- writing -------------------------------------------------------------------------------------

    @contextmanager
    def writer(self, schema: Table, activity: Activity) -> Iterator[PartitionWriter]:
        """Hold the partition's lock and write it shard by shard; nothing is visible before `commit`.

        Raises PartitionBusy when another process holds the lock.
        """
        directory = self._directory(schema.name, activity.partition)
        with file_system_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        if self.format < FORMAT:
            with self.ledger.lock():
                write_atomically(self.root / "format.json", json.dumps({"format": FORMAT}).encode())
        with held(directory):
            yield PartitionWriter(directory, schema, activity, self.ledger, edition_of(directory, activity))

    def write(self, schema: Table, activity: Activity, frame: pl.DataFrame) -> Manifest:
        """Write and commit a whole partition at once, replacing what was there."""
        with self.writer(schema, activity) as writer:
            writer.write_shard(0, frame, overwrite=True)
            return writer.commit()

    def record_checks(
        self, manifest: Manifest, outcomes: Sequence[CheckOutcome], known: Collection[str] | None = None
    ) -> None:
        """Keep the results of checks; those of checks not named here stay as they were.

        `known` names all checks that there are: what another version of the code checked is forgotten.
        """
        kept = {check.name: check for check in self.checks(manifest) if known is None or check.name in known}
        kept.update({check.name: check for check in outcomes})
        write_atomically(
            manifest.directory / "checks.json",
            json.dumps(
                {"activity_id": manifest.activity.id, "outcomes": [vars(check) for check in kept.values()]},
                indent=1,
            ).encode(),
        )

    def _directory(self, table: str, partition: Partition) -> Path:
        directory = self.root / table
        for key, value in partition.items():
            directory /= f"{key}={value}"
        return directory

    def withdraw(self, manifest: Manifest, revocations: Mapping[str, str]) -> None:
        """Leave rows out of all later reads: their ids, each with the revocation that it fell with."""
        pairs = pl.DataFrame(list(revocations.items()), schema=["id", "revocation"], orient="row")
        with self.ledger.lock():
            self.ledger.withdraw(manifest.activity.id, pairs)

    # ---- DuckDB --------------------------------------------------------------------------------------

    def connect(self, *, whole: bool = False) -> duckdb.DuckDBPyConnection:
        """An in-memory DuckDB connection: a view for every table, and `records`, `edges`, `activities`.

        With `whole` the views hold withdrawn rows as well.
        """
        spill = Path(tempfile.gettempdir()) / "selfimprove-duckdb"
        connection = duckdb.connect(config={"temp_directory": str(spill)})
        create_views(connection, self.manifests(), None if whole else self.ledger)
        return connection

    def refresh_catalog(self) -> Path:
        """Write `catalog.duckdb`, views only, and put it in place by rename. Open it with plain `duckdb`."""
        target = self.root / "catalog.duckdb"
        temporary = target.with_name(".catalog.duckdb")
        with file_system_errors(target), FileLock(self.root / ".catalog.lock"):
            for left in self.root.glob(f"{temporary.name}*"):  # by a process that was killed, with its log
                left.unlink()
            with duckdb.connect(str(temporary)) as connection:
                create_views(connection, self.manifests(), self.ledger)
            temporary.replace(target)
        return target
