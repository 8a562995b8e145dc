"""The quality suites as Dagster asset checks: each stands beside its stage, blocking or not.

One step an asset makes all of its checks, since a step of its own for each would cost seconds of imports. In
one run a failed blocking check stops the stages downstream; from one run to the next it is the lake that
refuses to hand the partition on.
"""

# No `from __future__ import annotations`: Dagster reads the type of `context` and refuses its name.
import warnings
from collections.abc import Iterator
from math import isfinite
from typing import Any

import dagster as dg

from selfimprove_dagster.assets.partitions import iterations
from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.experiment.naming import experiment_of_key
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.quality.results import QualityCheck, QualityResult
from selfimprove_dagster.quality.suites import checks_of, run_suite
from selfimprove_dagster.tables import TABLES
from selfimprove_dagster.text import markdown_table, plain

STAGES = [table for table in TABLES.values() if table.method not in ("seeds", "reviews")]
"""The tables that stages write, in the order of the pipeline."""


DECIDED_WITH = {
    table.name: next(one.name for one in STAGES[position:] if one.is_asset)
    for position, table in enumerate(STAGES)
    if not table.is_asset
}
"""Tables that are no assets of their own, and the asset that writes them beside its own table."""


_LONGEST_REASON = 2_000


def checks_of_asset(asset: str) -> dg.AssetChecksDefinition:
    """One step with the checks of all tables that an asset writes; `asset` is the name of its own table."""
    tables = [asset, *(table for table, writer in DECIDED_WITH.items() if writer == asset)]
    key = dg.AssetKey(asset.split("/"))

    @dg.multi_asset_check(
        name=asset.replace("/", "_") + "_checks",
        description=f"Great Expectations over {' and '.join(tables)}.",
        specs=[
            _spec(key, _name(asset, table, check.name), check)
            for table in tables
            for check in checks_of(TABLES[table])
        ],
    )
    def run_checks(
        context: dg.AssetCheckExecutionContext, home: dg.ResourceParam[Home]
    ) -> Iterator[dg.AssetCheckResult]:
        experiment, iteration = experiment_of_key(context.partition_key)
        for table in tables:
            try:
                results = run_suite(
                    table, home.lake, home.experiment(experiment, asset.split("/")[0]), iteration
                )
            except SelfImproveError as error:
                raise dg.Failure(description=str(error), allow_retries=False) from error
            for result in results:
                yield _report(key, _name(asset, table, result.name), result)

    return run_checks


def _name(asset: str, table: str, check: str) -> str:
    """The check's own name; for a table that is no asset, preceded by the table's."""
    return check if table == asset else f"{table.split('/')[1]}_{check}"


def _spec(key: dg.AssetKey, name: str, check: QualityCheck) -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec")
        return dg.AssetCheckSpec(
            name,
            asset=key,
            description=check.description,
            blocking=check.blocking,
            partitions_def=iterations,
        )


def _report(key: dg.AssetKey, name: str, result: QualityResult) -> dg.AssetCheckResult:
    """A result as Dagster shows it; numbers stay numbers, so that they plot over iterations."""
    metadata: dict[str, Any] = {
        "reason": plain(result.reason, _LONGEST_REASON),
        "evaluated": result.evaluated,
        "unexpected": result.unexpected,
    }
    for name_of_value, value in result.observed.items():
        finite = isinstance(value, (int, float)) and isfinite(value)
        metadata[name_of_value] = value if finite else plain(str(value), 200)
    if result.failing_ids:
        metadata["failing_ids"] = dg.MetadataValue.json([plain(id, 200) for id in result.failing_ids])
    if result.table:
        metadata["rows"] = dg.MetadataValue.md(markdown_table(result.table))
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=result.passed,
        severity=dg.AssetCheckSeverity.ERROR if result.blocking else dg.AssetCheckSeverity.WARN,
        description=plain(result.reason, _LONGEST_REASON),
        metadata=metadata,
    )


all_checks: list[dg.AssetChecksDefinition] = [
    checks_of_asset(table.name) for table in STAGES if table.is_asset
]
"""The checks of every asset."""
