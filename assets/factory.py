"""Build assets with checks from the stages of a method, and a job from its iteration.

One step makes the tables of a stage and runs all their checks, in one process. A failed blocking check fails
the step and stops the following steps of the run. In later runs, the lake refuses to read the partition.
"""

# No `from __future__ import annotations`: Dagster reads the type of `context` and refuses its name.
import base64
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import isfinite
from typing import Any

import dagster as dg

from selfimprove_dagster.assets.partitions import iterations
from selfimprove_dagster.assets.recording import model_pool, recorder_of
from selfimprove_dagster.checkpoints.pruning import prune
from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.experiment.naming import experiment_of_key
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.method import Method, Stage
from selfimprove_dagster.quality.results import QualityCheck, QualityResult
from selfimprove_dagster.quality.suites import checks_of, run_suite
from selfimprove_dagster.readiness.check import check_ready
from selfimprove_dagster.registry import MethodWarning
from selfimprove_dagster.resources import LanguageModelResource, TrainerResource
from selfimprove_dagster.stage import PREVIEW_ROWS, Folder, Link, Markdown, Picture, Result, StageContext
from selfimprove_dagster.table import Table
from selfimprove_dagster.text import markdown_table, plain
from selfimprove_dagster.work.progress import Progress
from selfimprove_dagster.workers.models import shared

_OWNERS = ["team:data"]
_LONGEST_REASON = 2_000
_PREVIEW_CHARACTERS = 160


def assets_of(method: Method[Any], known: Mapping[str, Table]) -> list[dg.AssetsDefinition]:
    """Return the assets of a method, with one step per stage; `known` are the tables of all methods.

    A dependency on an unknown table is dropped with a `MethodWarning`.
    """
    return [_asset(method, stage, known) for stage in method.stages]


def job_of(method: Method[Any]) -> Any:
    """Return the job that runs one iteration of a method."""
    return dg.define_asset_job(
        f"{method.name}_iteration",
        selection=dg.AssetSelection.groups(method.name),
        description=f"Runs one iteration, up to {method.experiment.ends_with}. Each step runs in its own "
        "process, so that the memory of its model is released.",
    )


def _asset(method: Method[Any], stage: Stage, known: Mapping[str, Table]) -> dg.AssetsDefinition:
    checks = {
        (table.name, check.name): _check_spec(stage, table, check)
        for table in stage.writes
        for check in checks_of(table)
    }
    alone = len(stage.assets) == 1

    # The checks of a step with one asset can be run without the asset.
    @dg.multi_asset(
        name=f"{method.name}__{stage.name}",
        specs=[*_specs(method, stage, known)],
        check_specs=[*checks.values()],
        partitions_def=iterations(method.name),
        pool=model_pool() if stage.uses else None,
        can_subset=alone,
    )
    def step(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        language_model: LanguageModelResource,
        trainer: TrainerResource,
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        name, iteration = experiment_of_key(context.partition_key)
        try:
            experiment = home.experiment(name, method.name)
            with ExitStack() as stack:
                recorder = None
                if context.op_execution_context.selected_asset_keys:
                    begun = recorder_of(context, home.lake, experiment, iteration)
                    recorder = stack.enter_context(
                        begun.working(
                            stage.name, uses_model=bool(stage.uses), last=stage.name == experiment.ends_with
                        )
                    )
                    if stage is method.stages[0]:
                        check_ready(home, language_model.placed(experiment), context.log.warning)
                    stage_context = StageContext(
                        home=home,
                        table=stage.table,
                        experiment=experiment,
                        iteration=iteration,
                        code_version=method.code_version(stage),
                        language_model=shared(language_model, experiment, context.log.info),
                        trainer=trainer,
                        reporter=context.log,
                        run_id=context.run.run_id,
                    )
                    recorder.observe = partial(_observe, context, dg.AssetKey(stage.table.name.split("/")))
                    with recorder.watching():
                        results = stage.run(stage_context)
                    for result in [results] if isinstance(results, Result) else results:
                        yield _materialised(home.lake, result)
                selected = context.op_execution_context.selected_asset_check_keys
                for table in stage.writes:
                    names = {check for written, check in checks if written == table.name}
                    wanted = {check for check in names if checks[table.name, check].key in selected}
                    if wanted:
                        only = None if wanted == names else wanted
                        for outcome in run_suite(table.name, home.lake, experiment, iteration, only):
                            if outcome.name in wanted:
                                if recorder and outcome.blocking and not outcome.passed:
                                    recorder.blocked.append(f"{table.name}: {outcome.name}: {outcome.reason}")
                                yield _checked(checks[table.name, outcome.name], outcome)
            if stage.name == experiment.ends_with:
                context.log.info(f"checkpoints: {prune(home, name)}")
        except SelfImproveError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    return step


def _observe(context: dg.AssetExecutionContext, asset: dg.AssetKey, progress: Progress) -> None:
    """Show in Dagster how far a training is, with its loss and its throughput."""
    rate = progress.tokens_per_second
    context.log_event(
        dg.AssetObservation(
            asset,
            description=str(progress),
            partition=context.partition_key,
            metadata={
                progress.unit: progress.done,
                **{name: dg.MetadataValue.float(value) for name, value in progress.figures.items()},
                **({} if rate is None else {"tokens_per_second": rate}),
            },
        )
    )


def _specs(method: Method[Any], stage: Stage, known: Mapping[str, Table]) -> Iterator[dg.AssetSpec]:
    """Yield the assets of a stage; each depends on the one before."""
    descriptions = [stage.description] if isinstance(stage.description, str) else stage.description
    before = [_dependency(method, name) for name in stage.after if _is_known(method, name, known)]
    for table, description in zip(stage.assets, descriptions, strict=True):
        yield dg.AssetSpec(
            key=table.name.split("/"),
            group_name=method.name,
            deps=before,
            description=description,
            code_version=method.code_version(stage),
            kinds={*stage.kinds},
            owners=_OWNERS,
            metadata=table_metadata(table),
        )
        before = [dg.AssetDep(table.name.split("/"))]


def _is_known(method: Method[Any], name: str, known: Mapping[str, Table]) -> bool:
    if "/" not in name or name in known:
        return True
    warnings.warn(
        f"{method.name} depends on {name}, whose method is not installed: the dependency is left out",
        MethodWarning,
        stacklevel=2,
    )
    return False


def _dependency(method: Method[Any], name: str) -> dg.AssetDep:
    """Return the dependency on a stage of the method (same iteration) or a table of another one (all
    iterations).

    Methods have different partition sets, and Dagster's default mapping would request missing keys.
    """
    if "/" not in name:
        return dg.AssetDep([method.name, name])
    return dg.AssetDep(name.split("/"), partition_mapping=dg.AllPartitionMapping())


def _check_spec(stage: Stage, table: Table, check: QualityCheck) -> dg.AssetCheckSpec:
    """Attach a check to its table's asset or, without one, to the stage's own asset with a prefix."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec")
        return dg.AssetCheckSpec(
            check.name if table.is_asset else f"{table.stage}_{check.name}",
            asset=dg.AssetKey((table if table.is_asset else stage.table).name.split("/")),
            description=check.description,
            blocking=check.blocking,
            partitions_def=iterations(table.method),
        )


def _checked(spec: dg.AssetCheckSpec, result: QualityResult) -> dg.AssetCheckResult:
    """Convert a result for Dagster; numbers stay numbers, so that they are plotted over iterations."""
    metadata: dict[str, Any] = {
        "reason": plain(result.reason, _LONGEST_REASON),
        "evaluated": result.evaluated,
        "unexpected": result.unexpected,
    }
    for name, value in result.observed.items():
        finite = isinstance(value, (int, float)) and isfinite(value)
        metadata[name] = value if finite else plain(str(value), 200)
    if result.failing_ids:
        metadata["failing_ids"] = dg.MetadataValue.json([plain(id, 200) for id in result.failing_ids])
    if result.table:
        metadata["rows"] = dg.MetadataValue.md(markdown_table(result.table))
    return dg.AssetCheckResult(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=result.passed,
        severity=dg.AssetCheckSeverity.ERROR if result.blocking else dg.AssetCheckSeverity.WARN,
        description=plain(result.reason, _LONGEST_REASON),
        metadata=metadata,
    )


def _materialised(lake: Lake, result: Result) -> dg.MaterializeResult:
    """Return what Dagster shows about a committed table."""
    manifest = result.manifest
    return dg.MaterializeResult(
        asset_key=result.table.name.split("/"),
        metadata={
            "dagster/row_count": lake.live_rows(manifest),
            **table_metadata(result.table),
            "activity": manifest.activity.id,
            "folder": dg.MetadataValue.path(str(manifest.directory)),
            **{name: _shown(value) for name, value in result.metadata.items()},
            "preview": dg.MetadataValue.md(preview_table(lake, manifest, result.preview)),
        },
        data_version=dg.DataVersion(manifest.activity.id),
    )


def _shown(value: Any) -> Any:
    """Convert a metadata value of a result to Dagster's types."""
    match value:
        case Markdown(text):
            return dg.MetadataValue.md(text)
        case Picture(png):
            return dg.MetadataValue.md(f"![chart](data:image/png;base64,{base64.b64encode(png).decode()})")
        case Link(url):
            return dg.MetadataValue.url(url)
        case Folder(path):
            return dg.MetadataValue.path(path)
    return value


def table_metadata(table: Table) -> dict[str, Any]:
    """Return the columns of a table and their source columns, in Dagster's types."""
    sources = {
        column: [dg.TableColumnDep(dg.AssetKey(name.split("/")), source) for name, source in found]
        for column, found in table.sources.items()
        if found
    }
    return {
        "dagster/column_schema": dg.TableSchema(
            [dg.TableColumn(name, str(dtype)) for name, dtype in table.polars.items()]
        ),
        **({"dagster/column_lineage": dg.TableColumnLineage(sources)} if sources else {}),
    }


def preview_table(lake: Lake, manifest: Manifest, columns: Sequence[str]) -> str:
    """Return the first rows as a Markdown table in which text of models has no effect."""
    rows = lake.read_columns(manifest, columns, PREVIEW_ROWS).rows(named=True)
    return markdown_table(
        [{key: plain(str(value), _PREVIEW_CHARACTERS) for key, value in row.items()} for row in rows]
    )
