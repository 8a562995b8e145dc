"""The ids of all rows of a lake, kept on the disk while it is verified.

A large lake has more ids than fit into memory: DuckDB holds them in a file of its own, and joins them with the parents
of a partition within a fixed limit of memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import polars as pl

_MEMORY = "1GB"
"""What DuckDB may hold in memory; the rest is on the disk."""


@dataclass(frozen=True)
class Faulty:
    """Rows of a file with the same fault: how many, the first ones, and a parent that is at fault."""

    file: str
    count: int
    ids: list[str]
    parent: str


class KnownIds:
    """The ids of a lake's rows, with the activity that made them and their place: table, partition, file."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._places: list[str] = []
        connection.execute("CREATE TABLE known (id VARCHAR, activity VARCHAR, place INTEGER)")
        connection.execute("CREATE TABLE withdrawn (id VARCHAR)")

    def add(self, rows: pl.DataFrame, place: str) -> None:
        """Add the rows (`id`, `activity_id`) of a file."""
        self._places.append(place)
        placed = rows.select("id", "activity_id", place=pl.lit(len(self._places) - 1))
        self._insert("known SELECT id, activity_id, place", placed)

    def withdraw(self, ids: pl.Series) -> None:
        """Add ids of rows that were revoked, whose rows may be purged."""
        self._insert("withdrawn SELECT DISTINCT id", pl.DataFrame({"id": ids}, schema={"id": pl.String}))

    def _insert(self, into: str, rows: pl.DataFrame) -> None:
        self._connection.register("added", rows.to_arrow())
        self._connection.execute(f"INSERT INTO {into} FROM added")
        self._connection.unregister("added")

    def repeated(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the ids that occur more than once, in order, each with the places of its rows."""
        found = self._connection.execute(
            "SELECT id, list(place ORDER BY place) FROM known SEMI JOIN "
            "(SELECT id FROM known GROUP BY id HAVING count(*) > 1) USING (id) GROUP BY id ORDER BY id"
        )
        while rows := found.fetchmany(1_000):
            for row, places in rows:
                yield row, [self._places[place] for place in places]

    @contextmanager
    def loose(self, files: Sequence[Path], read: Collection[str]) -> Iterator[Loose]:
        """The parents of the rows of files that no row of the activities `read` is; without any, no row at all.

        Raises duckdb.Error for a file that cannot be read.
        """
        made = "WHERE list_contains($read, activity)" if read else ""
        self._connection.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE loose AS
            SELECT parse_filename(filename) AS file, id, parent FROM (
                SELECT filename, id, unnest(list_transform(parents, lambda one: one.id)) AS parent
                FROM read_parquet($files, filename = true, hive_partitioning = false)
                WHERE id IS NOT NULL AND activity_id IS NOT NULL AND sample_index IS NOT NULL
            ) AS edges
            ANTI JOIN (SELECT id AS parent FROM known {made}) AS made USING (parent)
            WHERE parent IS NOT NULL AND NOT starts_with(parent, 'b2:')
            """,
            {"files": [str(one) for one in files], **({"read": list(read)} if read else {})},
        )
        try:
            yield Loose(self._connection)
        finally:
            self._connection.execute("DROP TABLE loose")


class Loose:
    """Edges of a partition whose parent is not where it should be."""

    _DATASET = "starts_with(parent, 'act:')"
    _KNOWN = "parent IN (SELECT id FROM known)"

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def _rows(self, where: str, shown: int, **parameters: Any) -> list[Faulty]:
        found = self._connection.execute(
            f"""
            SELECT file, count(*), list(id ORDER BY id)[1:{shown}], min(parent)
            FROM (SELECT file, id, min(parent) AS parent FROM loose WHERE {where} GROUP BY file, id)
            GROUP BY file ORDER BY file
            """,
            parameters or None,
        )
        return [Faulty(*row) for row in found.fetchall()]

    def absent(self, shown: int) -> list[Faulty]:
        """Rows with a parent that is nowhere, and was not revoked."""
        gone = "parent NOT IN (SELECT id FROM withdrawn)"
        return self._rows(f"NOT {self._DATASET} AND NOT {self._KNOWN} AND {gone}", shown)

    def strange(self, shown: int) -> list[Faulty]:
        """Rows with a parent that another activity made."""
        return self._rows(f"NOT {self._DATASET} AND {self._KNOWN}", shown)

    def datasets(self, read: Collection[str], shown: int) -> list[Faulty]:
        """Rows that name a dataset, by its activity, which is not one of `read`."""
        return self._rows(f"{self._DATASET} AND NOT list_contains($read, parent)", shown, read=[*read])


@contextmanager
def known_ids() -> Iterator[KnownIds]:
    """No ids yet, in a temporary file."""
    with TemporaryDirectory(prefix="selfimprove-verify-") as folder:
        spilled = str(Path(folder) / "spilled")
        with duckdb.connect(
            str(Path(folder) / "ids.duckdb"), config={"memory_limit": _MEMORY, "temp_directory": spilled}
        ) as connection:
            yield KnownIds(connection)
