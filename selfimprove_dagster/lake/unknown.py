"""Tables of methods that are not installed: what the files and rows of a partition show of them."""

from __future__ import annotations

from selfimprove_dagster.lake.partition import Manifest, read_parquet
from selfimprove_dagster.lake.records import recompute_ids
from selfimprove_dagster.table import COMMON_COLUMNS, Table

_OF_A_MODEL = {"model_id", "base_model_id", "dataset_activity_id", "path"}


def table_of_files(manifest: Manifest) -> Table:
    """The table of a partition, from its files.

    The tag is read from an id. Content columns come before measures, and their number is the one that gives the first
    row's content hash; if none does, all columns count as content, so that the row is reported as changed.
    """
    path = next((path for path in manifest.paths if path.is_file()), None)
    if path is None:
        return Table(manifest.table, "", {})
    row = read_parquet(path).head(1)
    columns = {name: dtype for name, dtype in row.schema.items() if name not in COMMON_COLUMNS}
    names, whole = (
        list(columns),
        not row.is_empty() and row.columns[: len(COMMON_COLUMNS)] == list(COMMON_COLUMNS),
    )
    tag = row["id"][0].split(":")[0] if whole else ""
    for count in range(len(names), -1, -1):
        content = {name: columns[name] for name in names[:count]}
        measures = {name: columns[name] for name in names[count:]}
        table = Table(manifest.table, tag, content, measures, holds_model=columns.keys() >= _OF_A_MODEL)
        if whole and recompute_ids(table, row)["content_hash"][0] == row["content_hash"][0]:
            return table
    return Table(manifest.table, tag, columns, holds_model=columns.keys() >= _OF_A_MODEL)
