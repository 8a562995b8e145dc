"""What Dagster shows of a table: its columns, a preview, pictures, links to the lineage pages."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Any

import dagster as dg

from selfimprove_dagster.column_lineage import COLUMN_SOURCES
from selfimprove_dagster.lake import Lake, Manifest
from selfimprove_dagster.records import TableSchema
from selfimprove_dagster.text import markdown_table, plain

_PREVIEW_ROWS = 5
_PREVIEW_CHARACTERS = 160


def image(png: bytes) -> dg.MetadataValue:
    """A chart in Dagster's markdown."""
    return dg.MetadataValue.md(f"![chart](data:image/png;base64,{base64.b64encode(png).decode()})")


def number(value: Any) -> float:
    """For Dagster's plots: five decimals, NaN for nothing."""
    return round(float(value), 5) if value is not None else float("nan")


def table_metadata(schema: TableSchema) -> dict[str, Any]:
    """The columns of a table and the columns of other tables that they come from, in Dagster's types."""
    sources = {
        column: [dg.TableColumnDep(dg.AssetKey(table.split("/")), source) for table, source in found]
        for column, found in COLUMN_SOURCES[schema.name].items()
        if found
    }
    return {
        "dagster/column_schema": dg.TableSchema(
            [dg.TableColumn(name, str(dtype)) for name, dtype in schema.polars.items()]
        ),
        **({"dagster/column_lineage": dg.TableColumnLineage(sources)} if sources else {}),
    }


def page_url(path: str) -> str:
    """Address of a lineage page, under $SELFIMPROVE_PAGES_URL."""
    return os.environ.get("SELFIMPROVE_PAGES_URL", "http://127.0.0.1:3001").rstrip("/") + path


def preview_records(lake: Lake, manifest: Manifest) -> str:
    """The rows of the preview by id, as a markdown list: the page of each, and how to trace it."""
    ids = lake.read_columns(manifest, ["id"], _PREVIEW_ROWS)["id"]
    return "\n".join(
        f"- [`{id}`]({page_url(f'/records/{id}')}): `selfimprove lineage trace {id}`" for id in ids
    )


def preview_table(lake: Lake, manifest: Manifest, columns: Sequence[str]) -> str:
    """The first rows as a markdown table in which nothing that a model wrote has any effect."""
    rows = lake.read_columns(manifest, columns, _PREVIEW_ROWS).rows(named=True)
    return markdown_table(
        [{key: plain(str(value), _PREVIEW_CHARACTERS) for key, value in row.items()} for row in rows]
    )
