"""Derive tables of methods that are not installed from the files and rows of a partition."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.lake.partition import Manifest, read_parquet
from selfimprove_dagster.lake.records import recompute_ids
from selfimprove_dagster.table import COMMON_COLUMNS, Table

_ROWS = 20


def table_of_files(manifest: Manifest) -> Table:
    """Return the table of a partition, from its files.

    The tag is read from an id. Content columns come before measures. Their number is the one for which most
    of the first rows have the correct content hash. If there is none, all columns count as content, so that
    the rows are reported as changed.
    """
    rows = _first_rows(manifest)
    columns = [name for name in rows.columns if name not in COMMON_COLUMNS]

    def table(count: int) -> Table:
        content, measures = (
            {name: rows.schema[name] for name in part} for part in (columns[:count], columns[count:])
        )
        return Table(manifest.table, tag, content, measures)

    def hashed(count: int) -> int:
        try:
            return int((recompute_ids(table(count), rows)["content_hash"] == rows["content_hash"]).sum())
        except ValueError:  # a measure without a JSON form, such as NaN
            return 0

    whole = not rows.is_empty() and set(COMMON_COLUMNS) <= set(rows.columns)
    tag = str(rows["id"][0]).split(":")[0] if whole else ""
    counts = range(len(columns), 0, -1)
    return table(max(counts, key=hashed) if whole and columns else len(columns))


def _first_rows(manifest: Manifest) -> pl.DataFrame:
    """Return some rows of the first readable file; an empty frame without columns if there is none."""
    for path in manifest.paths:
        try:
            return read_parquet(path).head(_ROWS)
        except (OSError, pl.exceptions.PolarsError):
            continue
    return pl.DataFrame()
