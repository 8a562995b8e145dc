"""How a stage becomes an asset: key, group, partitions, kinds, pool and errors, the same for all."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

import dagster as dg

from selfimprove_dagster.assets.partitions import iterations
from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.table import Table
from selfimprove_dagster.text import markdown_table, plain

_KINDS = {"parquet", "polars"}


_OWNERS = ["team:data"]


def stage_asset(
    schema: Table,
    *,
    deps: Sequence[Table] = (),
    description: str,
    code_version: str = "1",
    kinds: set[str] | None = None,
    holds_model: bool = False,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with all that stages share: key, group, partitions, kinds, pool, errors."""
    method, _ = schema.name.split("/")

    def decorate(compute: Callable[..., Any]) -> dg.AssetsDefinition:
        return dg.asset(
            key=schema.name.split("/"),
            group_name=method,
            deps=[dep.name.split("/") for dep in deps],
            partitions_def=iterations,
            description=description,
            code_version=code_version,
            kinds=kinds or _KINDS,
            owners=_OWNERS,
            metadata=table_metadata(schema),
            pool="model" if holds_model else None,
        )(_with_plain_errors(compute))

    return decorate


def alternating_stages(
    schemas: Sequence[Table],
    *,
    deps: Sequence[Table],
    descriptions: Sequence[str],
    code_version: str = "1",
    kinds: set[str] | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """The same for stages that a model works on in turns, so that one step makes both tables.

    Each is shown to follow the one before; `compute` returns their results in this order.
    """
    method, _ = schemas[0].name.split("/")

    def decorate(compute: Callable[..., Any]) -> dg.AssetsDefinition:
        follows = [deps, *([schema] for schema in schemas)]
        return dg.multi_asset(
            name=schemas[-1].name.replace("/", "_"),
            specs=[
                dg.AssetSpec(
                    key=schema.name.split("/"),
                    group_name=method,
                    deps=[dep.name.split("/") for dep in before],
                    description=description,
                    code_version=code_version,
                    kinds=kinds or _KINDS,
                    owners=_OWNERS,
                    metadata=table_metadata(schema),
                )
                for schema, before, description in zip(schemas, follows, descriptions, strict=False)
            ],
            partitions_def=iterations,
            pool="model",
        )(_with_plain_errors(compute))

    return decorate


def _with_plain_errors(compute: Callable[..., Any]) -> Callable[..., Any]:
    """An error that a person can act on fails the step at once, with its message first."""

    @wraps(compute)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return compute(*args, **kwargs)
        except SelfImproveError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    # Dagster reads the types of the parameters, which are names of the other module until they are resolved.
    guarded.__signature__ = signature(compute, eval_str=True)  # type: ignore[attr-defined]
    return guarded


_PREVIEW_ROWS = 5


_PREVIEW_CHARACTERS = 160


def image(png: bytes) -> dg.MetadataValue:
    """A chart in Dagster's markdown."""
    return dg.MetadataValue.md(f"![chart](data:image/png;base64,{base64.b64encode(png).decode()})")


def number(value: Any) -> float:
    """For Dagster's plots: five decimals, NaN for nothing."""
    return round(float(value), 5) if value is not None else float("nan")


def table_metadata(schema: Table) -> dict[str, Any]:
    """The columns of a table and the columns of other tables that they come from, in Dagster's types."""
    sources = {
        column: [dg.TableColumnDep(dg.AssetKey(table.split("/")), source) for table, source in found]
        for column, found in schema.sources.items()
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


E = TypeVar("E", bound=Experiment)
