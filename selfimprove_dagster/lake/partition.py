"""Read and write one partition on the disk: its manifest, and the writer that commits it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl
from filelock import Timeout

from selfimprove_dagster.errors import LakeError, PartitionBusy
from selfimprove_dagster.host import temporary_path
from selfimprove_dagster.lake.disk import Outrun, file_checksum, file_system_errors
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.lake.revocations import Ledger, edges_of, fall
from selfimprove_dagster.lake.store import DISK, Store
from selfimprove_dagster.table import Table

Partition = Mapping[str, str]


_SPENT = "selfimprove.spent"
"""Key of our metadata in a Parquet file."""


FILES_PER_PART = 20_000
"""Maximum number of files that one manifest, or one part of it, lists: about 3 MB."""


NAMED = 1_000
"""Maximum number of files of a partition that a view of the catalog names one by one."""


FORMAT_WITH_PARTS = 2
"""The format of a lake in which a manifest lists its files in parts, which earlier versions cannot read."""


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

    `purged` is the number of rows that were removed from the disk; `edition` counts these removals. `parts` are the
    names of the files that list the files of a large partition.
    """

    directory: Path
    table: str
    partition: dict[str, str]
    activity: Activity
    files: tuple[ShardFile, ...]
    committed_at: str
    purged: int = 0
    edition: int = 0
    parts: tuple[str, ...] = field(default=(), repr=False)
    store: Store = field(default=DISK, repr=False, compare=False)

    @property
    def rows(self) -> int:
        """Return the number of rows on the disk, including revoked ones."""
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def paths(self) -> list[Path]:
        """Return the paths of the files, which are on this machine, unless they are lost."""
        paths = [self.directory / file.name for file in self.files]
        self.store.bring(paths)
        return paths

    @property
    def patterns(self) -> list[str]:
        """Return what a query reads: the paths, or for very many of them one pattern, with other wildcards escaped."""
        names = [path.name for path in self.paths]
        folder = re.sub(r"([*?\[])", r"[\1]", str(self.directory))
        if len(names) > NAMED:
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
def held(directory: Path, store: Store = DISK) -> Iterator[None]:
    """Hold a partition's lock. Raises PartitionBusy if another process holds it."""
    with ExitStack() as stack:
        try:
            with file_system_errors(directory):
                stack.enter_context(store.lock(directory / ".lock", wait=False))
        except Timeout:
            raise PartitionBusy(
                f"{_described(directory)} is being written by another process; "
                "wait until it ends, or stop it, then run again"
            ) from None
        yield


def _described(directory: Path) -> str:
    table, partition = "/".join(directory.parts[-4:-2]), ", ".join(directory.parts[-2:])
    return f"{table} {partition.replace('=', ' ')}"


@dataclass
class PartitionWriter:
    """Writes one partition; created by `Lake.writer`, which holds the lock."""

    directory: Path
    schema: Table
    activity: Activity
    ledger: Ledger
    edition: int = 0
    seen: Any = None
    """The version of the manifest that this one replaces."""

    @property
    def store(self) -> Store:
        """Return where the files are kept."""
        return self.ledger.store

    @property
    def committed_shards(self) -> set[int]:
        """Return the complete shards of earlier attempts of the same activity."""
        prefix = self._prefix
        names = (path.name for path in self.store.glob(self.directory, f"{prefix}*.parquet"))
        return {int(name.removeprefix(prefix).removesuffix(".parquet")) for name in names}

    def read_shard(self, index: int) -> pl.DataFrame:
        """Return the rows of an existing shard."""
        (path,) = self._paths([index])
        return read_parquet(path)

    @property
    def spent(self) -> Spent:
        """Return the cost of all committed shards, including those of earlier attempts."""
        return sum(map(spent_on, self._paths(sorted(self.committed_shards))), Spent())

    def write_shard(
        self, index: int, frame: pl.DataFrame, *, spent: Spent | None = None, overwrite: bool = False
    ) -> None:
        """Write one shard durably, with its cost. An existing shard is an error unless `overwrite` is set."""
        path = self._path(index)
        columns = self.schema.stored(frame.columns)
        frame = frame.select(pl.col(name).cast(dtype) for name, dtype in columns.items())
        temporary = temporary_path(path)
        with file_system_errors(path):
            try:
                metadata = {_SPENT: json.dumps(spent.recorded)} if spent else None
                frame.write_parquet(temporary, compression="zstd", metadata=metadata)
                self.store.publish(temporary, path, overwrite=overwrite)
            except FileExistsError:
                raise FileExistsError(
                    f"shard {index} of {self.schema.name} is already written: {path}"
                ) from None
            finally:
                temporary.unlink(missing_ok=True)

    def commit(self, about: Mapping[str, Any] | None = None) -> Manifest:
        """Publish all shards of this activity in one step, then delete the replaced ones.

        `about` is added to that of the activity (token counts, seconds). Rows that descend from revoked ones
        are revoked, too, as the stage may have read its input before the revocation. None is missed: the
        revoked rows are looked up, and the manifest is written, under the lock that revocations are applied
        under. An earlier revocation is respected here, and a later one finds this partition in the lake.
        """
        indices, target = sorted(self.committed_shards), self.directory / "manifest.json"
        self._refuse_if_outrun(target)
        if not indices:
            raise ValueError(f"{self.schema.name} {dict(self.activity.partition)}: no shard was written")
        activity = self.activity.to_json()
        activity["about"] = {**activity["about"], **(about or {})}
        with file_system_errors(target), self.ledger.lock() as lock:
            self._refuse_if_outrun(target)
            purged = self._let_fall(indices)
            files = [self._shard_file(index) for index in indices]
            manifest = {
                "table": self.schema.name,
                "partition": dict(self.activity.partition),
                "rows": sum(file.rows for file in files),
                "purged": purged,
                "edition": self.edition,
                **self._listed(files),
                "committed_at": datetime.now(UTC).isoformat(timespec="microseconds"),
                "activity": activity,
            }
            # Lone surrogates (from file names that are not UTF-8) would make the file unreadable for DuckDB.
            text = json.dumps(manifest, indent=1, ensure_ascii=False)
            try:
                self.seen = self.store.swap(target, text.encode(errors="replace"), self.seen)
            except Outrun:
                raise self._outrun() from None
            in_time = lock.is_locked
        if not in_time:  # the lock was lost to a process that may have revoked something in between
            with self.ledger.lock():
                self._withdraw(indices)
        committed = load_manifest(target, self.store)
        for path in loose_files(committed.directory, committed, self.store):
            self.store.delete(path)
        return committed

    def _refuse_if_outrun(self, manifest: Path) -> None:
        """Raise PartitionBusy if another process committed the partition meanwhile, and deleted these shards."""
        if self.store.version(manifest) != self.seen:
            raise self._outrun()

    def _outrun(self) -> PartitionBusy:
        return PartitionBusy(
            f"{_described(self.directory)} was written by another process meanwhile, which took this one for dead; "
            "run again"
        )

    def _listed(self, files: Sequence[ShardFile]) -> dict[str, Any]:
        """Return what the manifest records of its files: themselves, or the parts that list them.

        Parts are written before the manifest that names them, under names that say what they contain.
        """
        if len(files) <= FILES_PER_PART:
            return {"files": [vars(file) for file in files]}
        raise_format(self.ledger.root, FORMAT_WITH_PARTS, self.store)
        parts = []
        for first in range(0, len(files), FILES_PER_PART):
            listed = [vars(file) for file in files[first : first + FILES_PER_PART]]
            data = json.dumps(listed, separators=(",", ":")).encode()
            checksum = "b2:" + blake2b(data, digest_size=16).hexdigest()
            name = f"manifest-{checksum.removeprefix('b2:')}.json"
            self.store.write(self.directory / name, data)
            parts.append({"name": name, "files": len(listed), "checksum": checksum})
        return {"parts": parts}

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
        self._withdraw(indices)
        withdrawn = self.ledger.withdrawn(self.activity.id)
        purged = withdrawn.filter(pl.col("revocation").is_in(list(self.ledger.has("purging"))))["id"]
        for index in indices if len(purged) else ():
            shard = self.read_shard(index)
            kept = shard.filter(~pl.col("id").is_in(purged.implode()))
            if len(kept) < len(shard):
                self.write_shard(index, kept, spent=spent_on(*self._paths([index])), overwrite=True)
        return purged.n_unique()

    def _withdraw(self, indices: Sequence[int]) -> None:
        """Withdraw the revoked rows."""
        paths = self._paths(indices)
        rows = pl.concat([read_parquet(path, ["id", "parents"]) for path in paths])
        roots = self.ledger.all_withdrawn()
        if "licence" in self.schema.content and self.ledger.folder.is_dir():
            whole = pl.concat([read_parquet(path) for path in paths])
            roots = pl.concat([roots, self.ledger.named(self.activity.partition["experiment"], whole)])
        fallen = fall(edges_of(rows), roots).join(rows, on="id", how="semi")
        self.ledger.withdraw(self.activity.id, fallen)

    def _shard_file(self, index: int) -> ShardFile:
        (path,) = self._paths([index])
        rows = pl.scan_parquet(path, hive_partitioning=False, glob=False).select(pl.len()).collect().item()
        return ShardFile(path.name, rows, path.stat().st_size, file_checksum(path))

    def _paths(self, indices: Sequence[int]) -> list[Path]:
        """Return the paths of shards, which are on this machine."""
        paths = [self._path(index) for index in indices]
        self.store.bring(paths)
        return paths

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


def edition_of(directory: Path, activity: Activity, store: Store = DISK) -> int:
    """Return the edition of the files to write, which continues after that of an earlier purge."""
    try:
        store.bring([path := directory / "manifest.json"])
        manifest = load_manifest(path, store)
    except FileNotFoundError:
        return 0
    return manifest.edition if manifest.activity.id == activity.id else 0


def load_manifest(path: Path, store: Store = DISK) -> Manifest:
    """Read a manifest, with its parts. In an object store, it must have been brought before.

    Raises FileNotFoundError if there is none, and ValueError, KeyError or TypeError if it, or a part, was changed.
    """
    while True:
        text = path.read_text()
        data = json.loads(text)
        try:
            listed = data["files"] if "files" in data else _listed_in(path.parent, data["parts"], store)
            break
        except FileNotFoundError as error:
            store.bring([path])
            if path.read_text() == text:
                raise ValueError(f"{error.filename}, a part of the manifest, is missing") from error
            # The partition was committed again meanwhile, and its earlier parts were deleted.
    return Manifest(
        directory=path.parent,
        table=data["table"],
        partition=data["partition"],
        activity=Activity.from_json(data["activity"]),
        files=tuple(ShardFile(**file) for file in listed),
        committed_at=data["committed_at"],
        purged=data.get("purged", 0),
        edition=data.get("edition", 0),
        parts=tuple(part["name"] for part in data.get("parts", ())),
        store=store,
    )


def _listed_in(directory: Path, parts: Sequence[Mapping[str, Any]], store: Store) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = []
    store.bring(directory / part["name"] for part in parts)
    for part in parts:
        if file_checksum(path := directory / part["name"]) != part["checksum"]:
            raise ValueError(f"{path.name} was changed after the commit: its checksum differs")
        listed += json.loads(path.read_bytes())
    return listed


def loose_files(directory: Path, manifest: Manifest | None, store: Store = DISK) -> list[Path]:
    """Return the files of a partition's folder that its manifest does not name, in order."""
    named = {*(file.name for file in manifest.files), *manifest.parts} if manifest else set()
    found = (path for pattern in _WRITTEN for path in store.glob(directory, pattern))
    return sorted(path for path in found if path.name not in named)


_WRITTEN = ("*.parquet", "manifest-*.json", ".*.tmp")
"""Patterns of the files that a writer of a partition makes before its manifest."""


def partition_folders(root: Path, experiment: str, store: Store) -> list[Path]:
    """Return the folders of the partitions of an experiment (`*`: of all), in order, committed or not."""
    pattern = f"*/*/experiment={experiment}/*"
    return sorted({*root.glob(pattern), *(path.parent for path in store.glob(root, f"{pattern}/*"))})


def format_of(root: Path) -> int:
    """Return the version of a lake's layout, by default 0. Raises LakeError if it cannot be read."""
    file = root / "format.json"
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["format"])
    except FileNotFoundError:
        return 0
    except (ValueError, TypeError, KeyError):
        raise LakeError(
            f"{file} does not contain the lake's format, such as {json.dumps({'format': 1})}: "
            "restore it from a backup"
        ) from None


def raise_format(root: Path, version: int, store: Store = DISK) -> None:
    """Record that a lake has at least this format. The caller must hold the ledger's lock."""
    if format_of(root) < version:
        store.write(root / "format.json", json.dumps({"format": version}).encode())
