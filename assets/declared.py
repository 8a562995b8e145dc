"""How a stage becomes an asset: key, group, partitions, kinds, pool and errors, the same for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any

import dagster as dg

from assets.partitions import iterations
from assets.shown import table_metadata
from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.records import TableSchema

_KINDS = {"parquet", "polars"}
_OWNERS = ["team:data"]


def stage_asset(
    schema: TableSchema,
    *,
    deps: Sequence[TableSchema] = (),
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
    schemas: Sequence[TableSchema],
    *,
    deps: Sequence[TableSchema],
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
