"""Records by words in their text, over every table of the lake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.errors import LakeError
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.walk import RecordNotFound
from selfimprove_dagster.table import Table

BEFORE, AFTER = 40, 80
"""Characters of an excerpt on either side of the match."""


_DATASET = "filtered_dataset"


@dataclass(frozen=True)
class Found:
    """One record that has the words; `excerpt` is the text around their first occurrence in it."""

    id: str
    table: str
    experiment: str
    iteration: int | None
    excerpt: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def search(
    lake: Lake, text: str, experiment: str | None = None, table: str | None = None, limit: int = 50
) -> list[Found]:
    """The first `limit` records in whose text `text` occurs, letter by letter, in either case.

    All text columns are searched but ids. Examples come first, then seeds, then the other tables; within a
    table by experiment, iteration and id. `table` is a whole name or the stage alone. Raises LakeError for a
    table that there is not, and for a text of nothing but spaces, which would match everything.
    """
    if not text.strip():
        raise LakeError("there are no words to search for; give some of the text")
    texts = {name: columns for name, one in _tables(lake).items() if (columns := _texts(one))}
    wanted = [name for name in texts if table in (None, name, name.split("/")[1])]
    if not wanted:
        raise LakeError(f"there is no table {table!r} that holds text; there are: {', '.join(texts)}")
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
    """The id of the one training example that has the words.

    Raises RecordNotFound that lists the candidates where there are several.
    """
    found = search(lake, text, table=_DATASET, limit=11)
    if not found:
        raise RecordNotFound(f"no training example has the words {text!r}; `lineage search` looks everywhere")
    if len(found) > 1:
        some = "\n".join(f"  {hit.id}  {hit.excerpt!r}" for hit in found[:10])
        more = "\n  … and more" if len(found) > 10 else ""
        raise RecordNotFound(f"several training examples have the words {text!r}; give an id:\n{some}{more}")
    return found[0].id


def _tables(lake: Lake) -> dict[str, Table]:
    """Every table in the order of its hits: datasets, what they came from, then the rest.

    Tables in the lake that no installed method has come last, as their files show them.
    """
    found = dict(registry.tables())
    for manifest in lake.manifests():
        if manifest.table not in found:
            found[manifest.table] = registry.table_of(manifest)
    given = {table.name for method in registry.methods().values() for table in method.inputs}
    return dict(sorted(found.items(), key=lambda item: (item[1].stage != _DATASET, item[0] not in given)))


def _texts(table: Table) -> list[str]:
    """The columns that hold text: all but ids, and the instances of tasks."""
    return [
        column
        for column, dtype in table.content.items()
        if (dtype == pl.String or column == "instances") and not column.endswith("_id")
    ]


def _query(table: str, texts: Sequence[str]) -> str:
    """One table's hits; each row's excerpt is of its first column, in the schema's order, that matches."""
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
    """A column as text: of a task's instances, inputs and outputs one after another."""
    if column != "instances":
        return f'"{column}"'
    said = "concat_ws(' → ', one.input, one.output)"
    return f"array_to_string(list_transform(instances, lambda one: {said}), ' | ')"
