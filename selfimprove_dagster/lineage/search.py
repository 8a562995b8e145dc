"""Search records by their text, over every table of the lake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.conversation import BEGINNING
from selfimprove_dagster.errors import LakeError
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.walk import RecordNotFound
from selfimprove_dagster.table import Table

BEFORE, AFTER = 40, 80
"""Number of characters of an excerpt before and after the match."""


_DATASET = "filtered_dataset"


@dataclass(frozen=True)
class Found:
    """A record that contains the text; `excerpt` is the text around its first occurrence."""

    id: str
    table: str
    experiment: str
    iteration: int | None
    excerpt: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def search(
    lake: Lake, text: str, experiment: str | None = None, table: str | None = None, limit: int = 50
) -> list[Found]:
    """Return the first `limit` records that contain `text` literally, ignoring case.

    All text columns except ids are searched, and of conversations what their messages say. Examples come first, then
    seeds, then the other tables; within a table the order is by experiment, iteration and id. `table` is a full name
    or only the stage. Raises LakeError for an unknown table, and for a blank text, which would match everything.
    """
    if not text.strip():
        raise LakeError("the search text is empty; give some of the text")
    texts = {name: columns for name, one in _tables(lake).items() if (columns := _texts(one))}
    wanted = [name for name in texts if table in (None, name, name.split("/")[1])]
    if not wanted:
        raise LakeError(f"there is no table {table!r} with text; use one of {', '.join(texts)}")
    found: list[Found] = []
    with lake.connect() as connection:
        views = connection.execute("SELECT schema_name || '/' || view_name FROM duckdb_views()").fetchall()
        for name in wanted:
            if (name,) not in views or len(found) == limit:
                continue
            rows = connection.execute(
                _query(name, texts[name]),
                {"text": text, "experiment": experiment, "limit": limit - len(found)},
            ).fetchall()
            found += [Found(row[0], name, *row[1:]) for row in rows]
    return found


def only_example(lake: Lake, text: str) -> str:
    """Return the id of the only training example that contains the text.

    Raises RecordNotFound; if there are several, it lists the candidates.
    """
    found = search(lake, text, table=_DATASET, limit=11)
    if not found:
        raise RecordNotFound(f"no training example contains {text!r}; `lineage search` searches all records")
    if len(found) > 1:
        some = "\n".join(f"  {hit.id}  {hit.excerpt!r}" for hit in found[:10])
        more = "\n  … and more" if len(found) > 10 else ""
        raise RecordNotFound(f"several training examples contain {text!r}; give an id:\n{some}{more}")
    return found[0].id


def _tables(lake: Lake) -> dict[str, Table]:
    """Return every table in the order of search results: datasets, then seeds, then the rest.

    Tables of methods that are not installed come last, with the columns of their files.
    """
    found = dict(registry.tables())
    for manifest in lake.manifests():
        if manifest.table not in found:
            found[manifest.table] = registry.table_of(manifest)
    given = {table.name for method in registry.methods().values() for table in method.inputs}
    return dict(sorted(found.items(), key=lambda item: (item[1].stage != _DATASET, item[0] not in given)))


def _texts(table: Table) -> list[str]:
    """Return the columns that hold text: strings other than ids, and the instances of tasks."""
    return [
        column
        for column, dtype in table.content.items()
        if (dtype == pl.String or column == "instances") and not column.endswith("_id")
    ]


def _query(table: str, texts: Sequence[str]) -> str:
    """Return the query of one table; the excerpt comes from the first matching column in schema order."""
    matches = {text: f"contains(lower({text}), lower($text))" for text in map(_text, texts)}
    excerpts = " ".join(
        f"WHEN {match} THEN substr({text}, greatest(1, instr(lower({text}), lower($text)) - {BEFORE}), "
        f"{BEFORE + AFTER} + length($text))"
        for text, match in matches.items()
    )
    method, stage = table.split("/")
    iteration = "NULL::INTEGER" if method in ("seeds", "reviews") else "iteration"
    return (
        f'SELECT id, experiment, {iteration} AS iteration, CASE {excerpts} END FROM "{method}"."{stage}" '
        f"WHERE ({' OR '.join(matches.values())}) AND ($experiment IS NULL OR experiment = $experiment) "
        "ORDER BY experiment, iteration, id LIMIT $limit"
    )


def _text(column: str) -> str:
    """Return a column as SQL text: of conversations what messages say, of a task's instances inputs and outputs."""
    if column != "instances":
        said = f"array_to_string(json_extract_string(\"{column}\", '$.conversation[*].content'), '\n\n')"
        is_conversation = f'starts_with("{column}", \'{BEGINNING}\') AND json_valid("{column}")'
        return f'CASE WHEN {is_conversation} THEN {said} ELSE "{column}" END'
    said = "concat_ws(' → ', one.input, one.output)"
    return f"array_to_string(list_transform(instances, lambda one: {said}), ' | ')"
