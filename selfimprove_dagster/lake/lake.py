"""Store tables as Parquet files that are committed atomically, and read them through DuckDB views.

    <root>/<method>/<stage>/experiment=…/iteration=…/
        part-<activity>-00000.parquet   shards, each written under a temporary name, fsynced, renamed
        manifest.json                   written last; lists the shards, their checksums and the activity
        manifest-<checksum>.json        parts of the manifest of a large partition, which list its shards
        checks.json                     the latest result of each quality check of that manifest
        .lock                           held by the process that writes
    <root>/format.json                  the version of this layout, written before the first partition
    <root>/revocations/                 revocations, and the rows that they withdraw
    <root>/.lineage/                    the lineage index, which may be deleted at any time
    <root>/.runs/                       which process works on what; may be deleted at any time, too
    <root>/catalog.duckdb               views for people, rebuilt after each commit

The Parquet files are authoritative; a file that no manifest lists does not count. A killed stage leaves
complete shards behind, and the next attempt of the same activity resumes after them. Tables are read with
DuckDB: every connection is in memory, over views that list exactly the committed files, so readers never
block each other or wait for a writer.
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

from selfimprove_dagster.addresses import address_of, folder_at
from selfimprove_dagster.errors import GateClosed, LakeError, PartitionMissing
from selfimprove_dagster.lake.disk import file_checksum, file_system_errors
from selfimprove_dagster.lake.partition import (
    FORMAT_WITH_PARTS,
    Manifest,
    Partition,
    PartitionWriter,
    ShardFile,
    Spent,
    edition_of,
    format_of,
    held,
    load_manifest,
    partition_of,
    raise_format,
    read_parquet,
)
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.lake.revocations import Ledger
from selfimprove_dagster.lake.store import bring_model, store_of
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
"""Version of the layout of a new lake. A lake without `format.json` has version 0, which is read in the same way."""


@dataclass(frozen=True)
class CheckOutcome:
    """The latest result of a quality check on a partition."""

    name: str
    passed: bool
    blocking: bool
    reason: str


class Lake:
    """A folder of tables. Any number of processes may read it; one process at a time writes a partition.

    Raises LakeError for a folder that a newer version of this package wrote.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        for part in self.root.parts:
            if part.split("=")[0] in HIVE_TYPES and "=" in part:
                raise LakeError(
                    f"a lake cannot be inside {part!r}: it would be read as a partition; "
                    "choose another folder"
                )
        self.store = store_of(self.root.parent)
        self.ledger = Ledger(self.root, self.store)
        if (found := self.format) > FORMAT_WITH_PARTS:
            raise LakeError(
                f"the lake {self.root} has format {found}, but this version of selfimprove_dagster reads "
                f"formats up to {FORMAT_WITH_PARTS}: install the version that wrote it, or a newer one"
            )

    @property
    def format(self) -> int:
        """Return the version of the lake's layout, by default 0. Raises LakeError if it cannot be read."""
        return format_of(self.root)

    # ---- reading -------------------------------------------------------------------------------------

    def manifest(self, table: str, partition: Partition) -> Manifest:
        """Return the committed manifest. Raises PartitionMissing if there is none."""
        try:
            return self._load(self._directory(table, partition) / "manifest.json")
        except FileNotFoundError:
            where = ", ".join(f"{key} {value}" for key, value in partition.items())
            raise PartitionMissing(
                f"{table} has nothing committed for {where}; materialise it first"
            ) from None

    def exists(self, table: str, partition: Partition) -> bool:
        return bool(self.store.glob(self._directory(table, partition), "manifest.json"))

    def unfinished(self, table: str = "*/*", experiment: str = "*") -> list[Path]:
        """Return shards of partitions that a stage started and has not committed yet."""
        begun = self.store.glob(self.root, f"{table}/experiment={experiment}/*/part-*.parquet")
        committed = {path.parent for path in self._manifest_files(table, experiment)}
        left = [path for path in begun if path.parent not in committed]
        self.store.bring(left)
        return left

    def manifests(self, table: str = "*/*", experiment: str = "*") -> list[Manifest]:
        """Return all committed manifests, ordered by table and partition. `*` matches anything."""
        return [load_manifest(path, self.store) for path in self._manifest_files(table, experiment)]

    def _manifest_files(self, table: str, experiment: str) -> list[Path]:
        return self.store.glob(self.root, f"{table}/experiment={experiment}/*/manifest.json")

    def _load(self, path: Path) -> Manifest:
        self.store.bring([path])
        return load_manifest(path, self.store)

    def read(self, table: str, partition: Partition) -> pl.DataFrame:
        """Return a partition's rows. Raises PartitionMissing, or GateClosed if a blocking check failed."""
        manifest = self.manifest(table, partition)
        while True:
            self._refuse_if_gated(manifest)
            try:
                return self.read_ungated(manifest)
            except FileNotFoundError:
                replaced = self.manifest(table, partition)
                if replaced == manifest:
                    raise
                manifest = replaced  # replaced since it was read: the new manifest lists the new files

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
        """Return a partition's rows regardless of its checks: for checks, lineage and people."""
        rows, withdrawn = self.read_whole(manifest), self.ledger.withdrawn(manifest.activity.id)
        return (
            rows if withdrawn.is_empty() else rows.join(withdrawn, on="id", how="anti", maintain_order="left")
        )

    def read_columns(
        self, manifest: Manifest, names: Sequence[str], first: int | None = None
    ) -> pl.DataFrame:
        """Return some columns of `read_ungated`, and only the `first` rows if it is given."""
        rows = self.scan_ungated(manifest)
        return (rows if first is None else rows.head(first)).select(names).collect()

    def live_rows(self, manifest: Manifest) -> int:
        """Return the number of rows of `read_ungated`."""
        if self.ledger.withdrawn(manifest.activity.id).is_empty():
            return manifest.rows
        return len(self.read_columns(manifest, ["id"]))

    def read_whole(self, manifest: Manifest) -> pl.DataFrame:
        """Return every row on the disk, including revoked ones: for lineage walks and for verification."""
        return pl.concat([read_parquet(path) for path in manifest.paths])

    def withdrawn(self, manifest: Manifest) -> dict[str, str]:
        """Return the ids of its revoked rows, each with a revocation that covers it."""
        return dict(self.ledger.withdrawn(manifest.activity.id).iter_rows())

    def checks(self, manifest: Manifest) -> list[CheckOutcome]:
        """Return the latest results of the checks of exactly this manifest's activity."""
        file = manifest.directory / "checks.json"
        self.store.bring([file])
        try:
            recorded = json.loads(file.read_text())
        except FileNotFoundError:
            return []
        if recorded["activity_id"] != manifest.activity.id:
            return []
        return [CheckOutcome(**outcome) for outcome in recorded["outcomes"]]

    def closed_by(self, manifest: Manifest) -> list[CheckOutcome]:
        """Return the blocking checks of a partition that failed last, because of which no later stage reads it."""
        return [check for check in self.checks(manifest) if check.blocking and not check.passed]

    def _refuse_if_gated(self, manifest: Manifest) -> None:
        if failed := self.closed_by(manifest):
            names = "; ".join(f"{check.name} ({check.reason})" for check in failed)
            where = ", ".join(f"{key} {value}" for key, value in manifest.partition.items())
            raise GateClosed(
                f"{manifest.table} of {where} cannot be read by later stages, since blocking checks failed: "
                f"{names}. Materialise it again, or fix its input, then re-run its checks."
            )

    # ---- trained models ------------------------------------------------------------------------------

    def address_of(self, folder: str | Path) -> str:
        """Return how rows name the folder of a model; see `selfimprove_dagster.addresses`."""
        return address_of(self.root.parent, folder)

    def folder_at(self, address: str) -> str:
        """Return the folder of a model that a row names, in the home that the lake is a part of."""
        return folder_at(self.root.parent, address)

    def model_at(self, address: str) -> str:
        """Return `folder_at`, with the model on this machine if it is in the object store of the home."""
        folder = self.folder_at(address)
        bring_model(self.root.parent, folder)
        return folder

    # ---- writing -------------------------------------------------------------------------------------

    @contextmanager
    def writer(self, schema: Table, activity: Activity) -> Iterator[PartitionWriter]:
        """Hold the partition's lock and write it shard by shard; rows are visible only after `commit`.

        Raises PartitionBusy if another process holds the lock.
        """
        directory = self._directory(schema.name, activity.partition)
        with file_system_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        if self.format < FORMAT:
            with self.ledger.lock():
                raise_format(self.root, FORMAT, self.store)
        with held(directory, self.store):
            seen = self.store.version(directory / "manifest.json")
            edition = edition_of(directory, activity, self.store)
            yield PartitionWriter(directory, schema, activity, self.ledger, edition, seen)

    def write(self, schema: Table, activity: Activity, frame: pl.DataFrame) -> Manifest:
        """Write and commit a whole partition at once, replacing the previous one."""
        with self.writer(schema, activity) as writer:
            writer.write_shard(0, frame, overwrite=True)
            return writer.commit()

    def record_checks(
        self, manifest: Manifest, outcomes: Sequence[CheckOutcome], known: Collection[str] | None = None
    ) -> None:
        """Store the results of checks; results of other checks stay unchanged.

        `known` lists all existing checks; results of checks that no longer exist are removed.
        """
        kept = {check.name: check for check in self.checks(manifest) if known is None or check.name in known}
        kept.update({check.name: check for check in outcomes})
        self.store.write(
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
        """Leave rows out of all later reads, given their ids, each with the revocation that covers it."""
        pairs = pl.DataFrame(list(revocations.items()), schema=["id", "revocation"], orient="row")
        with self.ledger.lock():
            self.ledger.withdraw(manifest.activity.id, pairs)

    # ---- DuckDB --------------------------------------------------------------------------------------

    def connect(self, *, whole: bool = False) -> duckdb.DuckDBPyConnection:
        """Return an in-memory DuckDB connection with a view for every table, and `records`, `edges`,
        `activities`.

        With `whole`, the views include revoked rows.
        """
        spill = Path(tempfile.gettempdir()) / "selfimprove-duckdb"
        connection = duckdb.connect(config={"temp_directory": str(spill)})
        create_views(connection, self.manifests(), None if whole else self.ledger)
        return connection

    def refresh_catalog(self) -> Path:
        """Write `catalog.duckdb`, which contains only views and can be opened with plain `duckdb`.

        There is none of a lake in an object store: it would need all files on this machine.
        """
        target = self.root / "catalog.duckdb"
        if self.store.address:
            return target
        temporary = target.with_name(".catalog.duckdb")
        with file_system_errors(target), FileLock(self.root / ".catalog.lock"):
            for left in self.root.glob(f"{temporary.name}*"):  # left by a killed process, with its log
                left.unlink()
            with duckdb.connect(str(temporary)) as connection:
                create_views(connection, self.manifests(), self.ledger)
            temporary.replace(target)
        return target
