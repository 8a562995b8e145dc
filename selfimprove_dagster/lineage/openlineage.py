"""Export materialisations as OpenLineage run events, for catalogs such as Marquez, DataHub or OpenMetadata.

A job is a stage of an experiment, a run is one materialisation, and a dataset is a table, whose version is
the activity that made it. Events are derived from manifests, so every run is exported, however it was
started, and repeated exports are identical.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove_dagster import registry
from selfimprove_dagster.errors import ExperimentError, PartitionMissing, SelfImproveError
from selfimprove_dagster.lake.disk import write_atomically
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent
    from openlineage.client.facet_v2 import InputDatasetFacet

_PRODUCER = "urn:selfimprove:selfimprove_dagster"


class OpenLineageMissing(SelfImproveError):
    """Raised if the package that builds the events is not installed."""


def run_events(lake: Lake, experiment: str) -> list[RunEvent]:
    """Return a START and a COMPLETE event for each materialisation of an experiment, in the order of
    completion.

    Raises OpenLineageMissing if `openlineage-python` is not installed.
    """
    try:
        from openlineage.client.event_v2 import set_producer
    except ImportError:
        raise OpenLineageMissing(
            "OpenLineage events need an extra package; run: pip install 'selfimprove_dagster[openlineage]'"
        ) from None
    set_producer(_PRODUCER)
    manifests = sorted(
        lake.manifests(experiment=experiment), key=lambda manifest: (manifest.committed_at, manifest.table)
    )
    made = {manifest.activity.id: manifest for manifest in manifests}
    trained = {
        model_id: manifest
        for manifest in manifests
        if registry.table_of(manifest).holds_model
        for model_id in lake.read_whole(manifest)["model_id"]
    }
    return [event for manifest in manifests for event in _events(lake, manifest, made, trained)]


def write_events(lake: Lake, experiment: str, output: Path) -> int:
    """Write the events as JSON Lines to the new file `output` and return their number.

    Raises PartitionMissing if the lake holds nothing of the experiment.
    """
    if output.exists():
        raise ExperimentError(f"{output} exists already; choose a new file")
    events = run_events(lake, experiment)
    if not events:
        raise PartitionMissing(f"experiment {experiment} has no committed tables; run it first")
    from openlineage.client.serde import Serde

    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, "".join(Serde.to_json(event) + "\n" for event in events).encode())
    return len(events)


def _events(
    lake: Lake, manifest: Manifest, made: Mapping[str, Manifest], trained: Mapping[str, Manifest]
) -> Iterator[RunEvent]:
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import job_type_job
    from openlineage.client.uuid import generate_static_uuid

    activity = manifest.activity
    end = datetime.fromisoformat(manifest.committed_at)
    start = end - timedelta(seconds=float(activity.about.get("seconds", 0)))
    sources = {source: made[source] for source in activity.inputs if source in made}
    model = trained.get(activity.model_id or "")
    if model is not None and model is not manifest:
        sources[model.activity.id] = model
    run = Run(str(generate_static_uuid(start, activity.id.encode())), _run_facets(manifest))
    kind = job_type_job.JobTypeJobFacet(processingType="BATCH", integration="DAGSTER", jobType="ASSET")
    job = Job(_namespace(manifest), manifest.table, {"jobType": kind})
    inputs = [_input(lake, source) for _, source in sorted(sources.items())]
    for state, time in ((RunState.START, start), (RunState.COMPLETE, end)):
        yield RunEvent(
            eventType=state,
            eventTime=time.isoformat(),
            run=run,
            job=job,
            inputs=inputs,
            outputs=[_output(manifest)] if state is RunState.COMPLETE else [],
            producer=_PRODUCER,
        )


def _run_facets(manifest: Manifest) -> dict[str, Any]:
    from openlineage.client.facet_v2 import execution_parameters_run, processing_engine_run

    activity = manifest.activity
    said = {
        "activity_id": activity.id,
        "code_version": activity.code_version,
        "model_id": activity.model_id,
        "seed": activity.seed,
        **{f"partition.{key}": value for key, value in activity.partition.items()},
        **{f"parameters.{key}": value for key, value in activity.to_json()["parameters"].items()},
    }
    parameters = [
        execution_parameters_run.ExecutionParameter(
            key=key, value=value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        )
        for key, value in said.items()
    ]
    return {
        "executionParameters": execution_parameters_run.ExecutionParametersRunFacet(parameters),
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            version=version("dagster"), name="dagster"
        ),
    }


def _input(lake: Lake, manifest: Manifest) -> InputDataset:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

    checks = [
        quality.Assertion(
            assertion=check.name,
            success=check.passed,
            severity="error" if check.blocking else "warn",
            description=check.reason,
        )
        for check in lake.checks(manifest)
    ]
    facets: dict[str, InputDatasetFacet] = {}
    if checks:
        facets["dataQualityAssertions"] = quality.DataQualityAssertionsDatasetFacet(checks)
    return InputDataset(_namespace(manifest), manifest.table, facets, facets=_dataset_facets(manifest))


def _output(manifest: Manifest) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import column_lineage_dataset as lineage
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    fields = {
        column: lineage.Fields(
            [lineage.InputField(_namespace(manifest), table, source) for table, source in sources]
        )
        for column, sources in registry.table_of(manifest).sources.items()
        if sources
    }
    columns = {"columnLineage": lineage.ColumnLineageDatasetFacet(fields)} if fields else {}
    written = statistics.OutputStatisticsOutputDatasetFacet(
        rowCount=manifest.rows, size=manifest.bytes, fileCount=len(manifest.files)
    )
    return OutputDataset(
        _namespace(manifest),
        manifest.table,
        {"outputStatistics": written},
        facets={**_dataset_facets(manifest), **columns},
    )


def _dataset_facets(manifest: Manifest) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset, schema_dataset

    fields = [
        schema_dataset.SchemaDatasetFacetFields(name=name, type=str(kind))
        for name, kind in registry.table_of(manifest).polars.items()
    ]
    return {
        "schema": schema_dataset.SchemaDatasetFacet(fields),
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(manifest.activity.id),
    }


def _namespace(manifest: Manifest) -> str:
    return f"selfimprove.{manifest.experiment}"
