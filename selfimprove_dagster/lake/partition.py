"""Read and write one partition on the disk: its manifest, and the writer that commits it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from selfimprove_dagster.errors import PartitionBusy
from selfimprove_dagster.host import temporary_path
from selfimprove_dagster.lake.disk import file_checksum, file_system_errors, sync, write_atomically
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.lake.revocations import Ledger, edges_of, fall
from selfimprove_dagster.table import Table

Partition = Mapping[str, str]


_SPENT = "selfimprove.spent"
"""Key of our metadata in a Parquet file."""

_LIST = "files-"
"""Begins the name of a list of files."""

LISTED = 50_000
"""The number of files up to which a manifest lists them itself. More are in lists of so many files beside it, each of
less than 10 MB."""

_NAMED = 1_000
"""The number of files up to which a query names each of them."""


def partition_of(experiment: str, iteration: int) -> dict[str, str]:
    """Return the partition of one iteration of an experiment."""
    return {"experiment": experiment, "iteration": f"{iteration:03d}"}


@dataclass(frozen=True)
class ShardFile:
    """A committed Parquet file; `checksum` is `b2:` and the blake2b-128 of its bytes."""

    name: str
    rows: int
    bytes: int
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """The files of a committed partition, and the activity that made it.

    `purged` is the number of rows that were removed from the disk; `edition` counts these removals.
    """

    directory: Path
    table: str
    partition: dict[str, str]
    activity: Activity
    files: tuple[ShardFile, ...]
    committed_at: str
    purged: int = 0
    edition: int = 0

    @property
    def rows(self) -> int:
        """Return the number of rows on the disk, including revoked ones."""
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def paths(self) -> list[Path]:
        return [self.directory / file.name for file in self.files]

    @property
    def patterns(self) -> list[str]:
        """Return what a query reads: the paths, or for very many of them one pattern, with other wildcards escaped."""
        names = [file.name for file in self.files]
        folder = re.sub(r"([*?\[])", r"[\1]", str(self.directory))
        if len(names) > _NAMED:
            names = [f"{names[0].rpartition('-')[0]}-*.parquet"]
        return [f"{folder}/{name}" for name in names]

    @property
    def experiment(self) -> str:
        return self.partition["experiment"]

    @property
    def iteration(self) -> int:
        """Return the iteration, or -1 for tables that are not partitioned by iteration."""
        return int(self.partition.get("iteration", -1))


@dataclass(frozen=True)
class Spent:
    """The cost of model work: generated tokens, seconds of model time, and dollars paid for answers."""

    tokens: int = 0
    model_seconds: float = 0.0
    money: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.tokens + other.tokens,
            self.model_seconds + other.model_seconds,
            round(self.money + other.money, 9),
        )

    @property
    def recorded(self) -> dict[str, Any]:
        """Return what an activity or a shard records: no money where none was paid."""
        return {name: value for name, value in vars(self).items() if name != "money" or value}


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a partition's lock. Raises PartitionBusy if another process holds it."""
    lock = FileLock(directory / ".lock", timeout=0)
    try:
        with file_system_errors(directory):
            lock.acquire()
    except Timeout:
        table, partition = "/".join(directory.parts[-4:-2]), ", ".join(directory.parts[-2:])
        raise PartitionBusy(
            f"{table} {partition.replace('=', ' ')} is being written by another process; "
            "wait until it ends, or stop it, then run again"
        ) from None
    try:
        yield
    finally:
        lock.release()


@dataclass
class PartitionWriter:
    """Writes one partition; created by `Lake.writer`, which holds the lock."""

    directory: Path
    schema: Table
    activity: Activity
    ledger: Ledger
    edition: int = 0

    @property
    def committed_shards(self) -> set[int]:
        """Return the complete shards of earlier attempts of the same activity."""
        prefix = self._prefix
        names = (path.name for path in self.directory.glob(f"{prefix}*.parquet"))
        return {int(name.removeprefix(prefix).removesuffix(".parquet")) for name in names}

    def read_shard(self, index: int) -> pl.DataFrame:
        """Return the rows of an existing shard."""
        return read_parquet(self._path(index))

    @property
    def spent(self) -> Spent:
        """Return the cost of all committed shards, including those of earlier attempts."""
        return sum((spent_on(self._path(index)) for index in self.committed_shards), Spent())

    def write_shard(
        self, index: int, frame: pl.DataFrame, *, spent: Spent | None = None, overwrite: bool = False
    ) -> None:
        """Write one shard durably, with its cost. An existing shard is an error unless `overwrite` is set."""
        path = self._path(index)
        if path.exists() and not overwrite:
            raise FileExistsError(f"shard {index} of {self.schema.name} is already written: {path}")
        columns = self.schema.stored(frame.columns)
        frame = frame.select(pl.col(name).cast(dtype) for name, dtype in columns.items())
        temporary = temporary_path(path)
        with file_system_errors(path):
            try:
                metadata = {_SPENT: json.dumps(spent.recorded)} if spent else None
                frame.write_parquet(temporary, compression="zstd", metadata=metadata)
                sync(temporary)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def commit(self, about: Mapping[str, Any] | None = None) -> Manifest:
        """Publish all shards of this activity in one step, then delete the replaced ones.

        `about` is added to that of the activity (token counts, seconds). Rows that descend from revoked ones
        are revoked, too, as the stage may have read its input before the revocation. None is missed: the
        revoked rows are looked up, and the manifest is written, under the lock that revocations are applied
        under. An earlier revocation is respected here, and a later one finds this partition in the lake.
        """
        indices = sorted(self.committed_shards)
        if not indices:
            raise ValueError(f"{self.schema.name} {dict(self.activity.partition)}: no shard was written")
        activity = self.activity.to_json()
        activity["about"] = {**activity["about"], **(about or {})}
        target = self.directory / "manifest.json"
        with file_system_errors(target), self.ledger.lock():
            purged = self._let_fall(indices)
            files = [self._shard_file(index) for index in indices]
            manifest = {
                "table": self.schema.name,
                "partition": dict(self.activity.partition),
                "rows": sum(file.rows for file in files),
                "purged": purged,
                "edition": self.edition,
                **_listed(self.directory, files),
                "committed_at": datetime.now(UTC).isoformat(timespec="microseconds"),
                "activity": activity,
            }
            # Lone surrogates (from file names that are not UTF-8) would make the file unreadable for DuckDB.
            text = json.dumps(manifest, indent=1, ensure_ascii=False)
            write_atomically(target, text.encode(errors="replace"))
        named = {file.name for file in files} | {one["name"] for one in manifest.get("lists", ())}
        for path in [*self.directory.glob("*.parquet"), *self.directory.glob(f"{_LIST}*.json")]:
            if path.name not in named:
                path.unlink(missing_ok=True)
        for path in self.directory.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        return load_manifest(target)

    def rewrite_without(self, manifest: Manifest, ids: pl.Series) -> Manifest:
        """Commit the partition again without some rows, in new files next to the old ones."""
        fresh = replace(self, activity=manifest.activity, edition=manifest.edition + 1)
        for path in manifest.paths:
            kept = read_parquet(path).filter(~pl.col("id").is_in(ids.implode()))
            index = int(path.stem.rsplit("-", 1)[1])
            fresh.write_shard(index, kept, spent=spent_on(path), overwrite=True)
        return fresh.commit()

    def _let_fall(self, indices: Sequence[int]) -> int:
        """Withdraw the revoked rows, and remove those with purged text from the shards.

        Returns the number of purged rows of this activity.
        """
        if not self.ledger.revocations():
            return 0
        paths = [self._path(index) for index in indices]
        rows = pl.concat([read_parquet(path, ["id", "parents"]) for path in paths])
        roots = self.ledger.all_withdrawn()
        if "licence" in self.schema.content and self.ledger.folder.is_dir():
            whole = pl.concat([read_parquet(path) for path in paths])
            roots = pl.concat([roots, self.ledger.named(self.activity.partition["experiment"], whole)])
        fallen = fall(edges_of(rows), roots).join(rows, on="id", how="semi")
        self.ledger.withdraw(self.activity.id, fallen)
        withdrawn = self.ledger.withdrawn(self.activity.id)
        purged = withdrawn.filter(pl.col("revocation").is_in(list(self.ledger.has("purging"))))["id"]
        for index in indices if len(purged) else ():
            shard = self.read_shard(index)
            kept = shard.filter(~pl.col("id").is_in(purged.implode()))
            if len(kept) < len(shard):
                self.write_shard(index, kept, spent=spent_on(self._path(index)), overwrite=True)
        return purged.n_unique()

    def _shard_file(self, index: int) -> ShardFile:
        path = self._path(index)
        rows = pl.scan_parquet(path, hive_partitioning=False, glob=False).select(pl.len()).collect().item()
        return ShardFile(path.name, rows, path.stat().st_size, file_checksum(path))

    @property
    def _prefix(self) -> str:
        edition = f".{self.edition}" if self.edition else ""
        return f"part-{self.activity.id.removeprefix('act:')[:12]}{edition}-"

    def _path(self, index: int) -> Path:
        return self.directory / f"{self._prefix}{index:05d}.parquet"


def read_parquet(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    return pl.read_parquet(path, columns=columns, hive_partitioning=False, glob=False)


def spent_on(path: Path) -> Spent:
    """Return the cost of a shard as recorded in its file; zero if it is not recorded."""
    return Spent(**json.loads(pl.read_parquet_metadata(path).get(_SPENT, "{}")))


def edition_of(directory: Path, activity: Activity) -> int:
    """Return the edition of the files to write, which continues after that of an earlier purge."""
    try:
        manifest = load_manifest(directory / "manifest.json")
    except FileNotFoundError:
        return 0
    return manifest.edition if manifest.activity.id == activity.id else 0


def load_manifest(path: Path) -> Manifest:
    data = json.loads(path.read_text())
    return Manifest(
        directory=path.parent,
        table=data["table"],
        partition=data["partition"],
        activity=Activity.from_json(data["activity"]),
        files=tuple(ShardFile(**file) for file in _all_files(path, data)),
        committed_at=data["committed_at"],
        purged=data.get("purged", 0),
        edition=data.get("edition", 0),
    )


def _listed(directory: Path, files: Sequence[ShardFile]) -> dict[str, Any]:
    """Return what a manifest says of its files; very many of them are written into lists beside it."""
    if len(files) <= LISTED:
        return {"files": [vars(file) for file in files]}
    lists = []
    for at in range(0, len(files), LISTED):
        data = json.dumps([vars(file) for file in files[at : at + LISTED]]).encode()
        checksum = f"b2:{blake2b(data, digest_size=16).hexdigest()}"
        name = f"{_LIST}{at // LISTED:05d}-{checksum[3:15]}.json"
        write_atomically(directory / name, data)
        lists.append({"name": name, "checksum": checksum})
    return {"files": [], "lists": lists}


def _all_files(path: Path, data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the files of a manifest, those of its lists included. Raises ValueError for a list that was changed."""
    yield from data["files"]
    for one in data.get("lists", ()):
        place = path.parent / one["name"]
        if file_checksum(place) != one["checksum"]:
            raise ValueError(f"{place} was changed after it was committed")
        yield from json.loads(place.read_bytes())
