"""Export a table as an Iceberg table, whose data files are those of the lake: nothing is copied that need not be.

A file is rewritten beside the Iceberg table if rows of it are withdrawn, or if it has columns of types that Iceberg
does not have (unsigned integers). The rows carry `activity_id`, which names experiment and iteration; the columns
`experiment` and `iteration` of the lake are in names of folders only, and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.errors import LakeError, PartitionMissing
from selfimprove_dagster.lake.disk import sync
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import ShardFile, read_parquet

CATALOG = "catalog.sqlite"
"""The file of the catalogue that is used unless another one is named."""

_REWRITTEN = "rewritten"


@dataclass(frozen=True)
class IcebergExport:
    """What an export changed: the `identifier` of the table, its rows, and its files.

    `closed` is the number of partitions that were left out since a blocking check failed.
    """

    identifier: str
    rows: int
    files: int
    added: int
    removed: int
    rewritten: int
    closed: int


def export_iceberg(
    lake: Lake,
    table: str,
    warehouse: Path,
    experiment: str = "*",
    catalog: Mapping[str, str] | None = None,
) -> IcebergExport:
    """Make the Iceberg table `<method>.<stage>` hold the rows of a table that later stages may read, and only these.

    A repeated export adds what is new, and takes out what is gone or withdrawn; earlier snapshots are dropped, so that
    no withdrawn row is reachable by them. `catalog` are properties of a catalogue as pyiceberg takes them, by default
    a file of SQLite in the warehouse. Raises LakeError without pyiceberg, and PartitionMissing for a table without
    rows.
    """
    try:
        from pyiceberg.catalog import load_catalog
        from pyiceberg.io.pyarrow import parquet_files_to_data_files
    except ImportError:
        raise LakeError("pyiceberg is missing: pip install 'selfimprove_dagster[iceberg]'") from None
    known = lake.manifests(table, experiment)
    manifests = [one for one in known if not lake.closed_by(one)]
    if not manifests:
        whose = "" if experiment == "*" else f" of experiment {experiment}"
        why = "nothing but partitions whose blocking checks failed" if known else "nothing committed"
        raise PartitionMissing(f"{table}{whose} has {why}")
    warehouse = warehouse.absolute()
    warehouse.mkdir(parents=True, exist_ok=True)
    properties = {
        "type": "sql",
        "uri": f"sqlite:///{warehouse / CATALOG}",
        "warehouse": f"file://{warehouse}",
    }
    loaded = load_catalog("selfimprove", **(dict(catalog) if catalog else properties))
    method, _, stage = table.partition("/")
    identifier = f"{method}.{stage}"
    wanted: dict[str, Path] = {}
    folder = warehouse / _REWRITTEN / method / stage
    for manifest in manifests:
        withdrawn = lake.ledger.withdrawn(manifest.activity.id)["id"].unique()
        for file, source in zip(manifest.files, manifest.paths, strict=True):
            path = _usable(source, file, withdrawn, folder)
            if path is not None:
                wanted[f"file://{path}"] = path
    loaded.create_namespace_if_not_exists(method)
    schema = _schema([*wanted.values()])
    target = loaded.create_table_if_not_exists(identifier, schema)
    with target.update_schema() as update:
        update.union_by_name(schema)
    held = {task.file.file_path: task.file for task in target.scan().plan_files()}
    gone, fresh = sorted(held.keys() - wanted.keys()), sorted(wanted.keys() - held.keys())
    if gone or fresh:
        with target.transaction() as transaction:
            if transaction.table_metadata.name_mapping() is None:
                mapping = transaction.table_metadata.schema().name_mapping.model_dump_json()
                transaction.set_properties(**{"schema.name-mapping.default": mapping})
            with transaction.update_snapshot().overwrite() as overwrite:
                for name in gone:
                    overwrite.delete_data_file(held[name])
                for one in parquet_files_to_data_files(target.io, transaction.table_metadata, iter(fresh)):
                    overwrite.append_data_file(one)
        _forget(target)
    own = {path for path in wanted.values() if path.is_relative_to(folder)}
    for path in folder.glob("*.parquet"):
        if path not in own:
            path.unlink()
    rows = sum(task.file.record_count for task in target.scan().plan_files())
    return IcebergExport(
        identifier, rows, len(wanted), len(fresh), len(gone), len(own), len(known) - len(manifests)
    )


def _forget(table: Any) -> None:
    """Drop all snapshots but the current one."""
    current = table.current_snapshot()
    former = [one.snapshot_id for one in table.snapshots() if one.snapshot_id != current.snapshot_id]
    if former:
        table.maintenance.expire_snapshots().by_ids(former).commit()


def _usable(path: Path, file: ShardFile, withdrawn: pl.Series, folder: Path) -> Path | None:
    """Return a file with the rows of a shard that are not withdrawn, in types that Iceberg has; None without rows."""
    types = pl.read_parquet_schema(path)
    signed = {name: _signed(kind) for name, kind in types.items()}
    lost = (
        withdrawn.filter(withdrawn.is_in(read_parquet(path, ["id"])["id"].implode()))
        if len(withdrawn)
        else withdrawn
    )
    if file.rows == 0 or len(lost) == file.rows:
        return None
    if lost.is_empty() and signed == dict(types):
        return path.absolute()
    digest = blake2b("\n".join([file.checksum, *lost.sort()]).encode(), digest_size=12).hexdigest()
    rewritten = folder / f"{digest}.parquet"
    if not rewritten.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = rewritten.with_suffix(".tmp")
        rows = read_parquet(path).filter(~pl.col("id").is_in(lost.implode()))
        rows.cast(pl.Schema(signed)).write_parquet(temporary, compression="zstd")
        sync(temporary)
        temporary.replace(rewritten)
    return rewritten


def _signed(kind: Any) -> Any:
    """Return a type that Iceberg has, and that holds all values of another one."""
    if isinstance(kind, pl.List):
        return pl.List(_signed(kind.inner))
    if isinstance(kind, pl.Struct):
        return pl.Struct({field.name: _signed(field.dtype) for field in kind.fields})
    if kind in (pl.UInt8, pl.UInt16):
        return pl.Int32()
    return pl.Int64() if kind in (pl.UInt32, pl.UInt64) else kind


def _schema(paths: list[Path]) -> Any:
    """Return the columns of all files; a column that a file lacks is empty for its rows."""
    import pyarrow as pa
    from pyarrow import parquet

    return pa.unify_schemas([parquet.read_schema(path).remove_metadata() for path in paths])
