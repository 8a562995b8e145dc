"""Create DuckDB views over the committed files of a lake, i.e. exactly those in the manifests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import duckdb

from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.revocations import Ledger

HIVE_TYPES = {"experiment": "VARCHAR", "iteration": "INTEGER", "batch": "VARCHAR"}


def create_views(
    connection: duckdb.DuckDBPyConnection, manifests: Sequence[Manifest], ledger: Ledger | None
) -> None:
    """Create a view for every table, and `records`, `edges`, `activities` over all tables.

    Rows that are withdrawn in the ledger are left out; without a ledger, all rows are included.
    """
    by_table: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        by_table.setdefault(manifest.table, []).append(manifest)
    records, edges = [], []
    for table, members in by_table.items():
        method, stage = table.split("/")
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{method}"')
        view = f'"{method}"."{stage}"'
        files = ", ".join(quoted(pattern) for manifest in members for pattern in manifest.patterns)
        types = ", ".join(f"{key}: {HIVE_TYPES[key]}" for key in members[0].partition)
        connection.execute(
            f"CREATE VIEW {view} AS SELECT * FROM read_parquet([{files}], union_by_name=true, "
            f"hive_partitioning=true, hive_types={{{types}}})" + _without_withdrawn(members, ledger)
        )
        iteration = "iteration" if "iteration" in members[0].partition else "NULL::INTEGER"
        at = f"{quoted(table)} AS table_name, experiment, {iteration} AS iteration"
        records.append(f"SELECT id, content_hash, activity_id, parents, {at} FROM {view}")
        edges.append(
            f"SELECT id AS child, edge.id AS parent, edge.role AS role, {at} "
            f"FROM (SELECT *, unnest(parents) AS edge FROM {view})"
        )
    if not by_table:
        return
    connection.execute("CREATE VIEW records AS " + " UNION ALL ".join(records))
    connection.execute("CREATE VIEW edges AS " + " UNION ALL ".join(edges))
    paths = ", ".join(quoted_path(manifest.directory / "manifest.json") for manifest in manifests)
    connection.execute(
        "CREATE VIEW activities AS SELECT activity->>'id' AS id, activity->>'table' AS table_name, "
        "activity->'partition'->>'experiment' AS experiment, activity->>'model_id' AS model_id, "
        "activity->>'code_version' AS code_version, (activity->>'seed')::BIGINT AS seed, "
        "activity->'parameters' AS parameters, activity->'inputs' AS inputs, "
        "activity->'about' AS about, committed_at "
        f"FROM read_json([{paths}], columns={{activity: 'JSON', committed_at: 'VARCHAR'}}, "
        "maximum_object_size=268435456)"
    )


def _without_withdrawn(manifests: Sequence[Manifest], ledger: Ledger | None) -> str:
    listed = [ledger.withdrawn_file(manifest.activity.id) for manifest in manifests] if ledger else []
    files = ", ".join(quoted_path(path) for path in listed if path.is_file())
    if not files or ledger is None:
        return ""
    lifted = ", ".join(["''", *map(quoted, sorted(ledger.has("lifted")))])
    return (
        f" AS own ANTI JOIN (SELECT id FROM read_parquet([{files}], hive_partitioning=false) "
        f"WHERE revocation NOT IN ({lifted})) AS withdrawn ON own.id = withdrawn.id"
    )


def quoted_path(path: Path) -> str:
    """Return a path for a list of files in DuckDB, with its wildcards escaped."""
    return quoted(re.sub(r"([*?\[])", r"[\1]", str(path)))


def quoted(text: str) -> str:
    """Return a string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
