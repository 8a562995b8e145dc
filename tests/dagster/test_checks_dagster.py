"""The quality suites inside Dagster: what blocks, what does not, and what people see of it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
import yaml
from kit.lmsi_iterations import QUESTIONS, Iterations

from selfimprove_dagster import registry
from selfimprove_dagster.assets.factory import assets_of
from selfimprove_dagster.assets.partitions import add_iterations, iterations
from selfimprove_dagster.definitions import defs
from selfimprove_dagster.method import Stage
from selfimprove_dagster.quality.suites import checks_of
from selfimprove_dagster.resources import HomeResource, LanguageModelResource, TrainerResource
from selfimprove_dagster.stage import Result, StageContext
from selfimprove_dagster.table import Table

PARTITION = "tiny-001"


@pytest.fixture
def instance() -> Any:
    with dg.DagsterInstance.ephemeral() as instance:
        add_iterations(instance, "lmsi", [PARTITION])
        yield instance


def _given(table: Table) -> Callable[[StageContext[Any]], Result]:
    """Stands in for the real stage: the tests have written its table."""

    def run(context: StageContext[Any]) -> Result:
        return context.result(context.lake.manifest(table.name, context.partition), ["id"])

    return run


SEED_POOL, RAW_GENERATIONS = (registry.tables()[f"lmsi/{name}"] for name in ("seed_pool", "raw_generations"))
METHOD = replace(
    registry.method("lmsi"),
    stages=[
        Stage([SEED_POOL], _given(SEED_POOL)),
        Stage([RAW_GENERATIONS], _given(RAW_GENERATIONS), after=["seed_pool"]),
    ],
)


def materialise(made: Iterations, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """Both stages and the checks between them, with the experiment in a file of its own."""
    settings = made.experiment.model_dump(mode="json")
    for section, field in (("model", "path"), ("seeds", "file"), ("evaluation", "file")):
        settings[section][field] = (
            "embedded"  # before the first stage works, what an experiment names must be there
        )
    (made.folder / "tiny.yaml").write_text(yaml.safe_dump(settings))
    return dg.materialize(
        assets_of(METHOD, registry.tables()),
        partition_key=PARTITION,
        instance=instance,
        resources={
            "home": HomeResource(root=str(made.folder), experiments=str(made.folder)),
            "language_model": LanguageModelResource(),
            "trainer": TrainerResource(),
        },
        raise_on_error=False,
    )


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def succeeded(result: dg.ExecuteInProcessResult) -> set[str]:
    return {str(event.step_key) for event in result.all_events if event.event_type_value == "STEP_SUCCESS"}


def test_sound_data_passes_all_checks(made: Iterations, instance: dg.DagsterInstance) -> None:
    result = materialise(made, instance)
    assert result.success
    found = evaluations(result)
    assert {check.name for check in checks_of(registry.table("lmsi/seed_pool"))} <= {*found}
    assert all(found[check.name].passed for check in checks_of(registry.table("lmsi/seed_pool")))
    assert found["schema"].partition == PARTITION


def test_a_failed_blocking_check_stops_what_is_downstream(
    made: Iterations, instance: dg.DagsterInstance
) -> None:
    made.change_first("lmsi/seed_pool", question="")
    result = materialise(made, instance)
    assert not result.success
    assert succeeded(result) == set()
    started = {str(event.step_key) for event in result.all_events if event.event_type_value == "STEP_START"}
    assert started == {"lmsi__seed_pool"}
    found = evaluations(result)
    # The others are reported all the same.
    assert len(found) == len(checks_of(registry.table("lmsi/seed_pool")))
    failed = found["no_empty_text"]
    assert (failed.passed, failed.blocking, failed.severity) == (False, True, dg.AssetCheckSeverity.ERROR)


def test_a_failed_warning_lets_it_go_on(made: Iterations, instance: dg.DagsterInstance) -> None:
    made.change_first("lmsi/seed_pool", question=QUESTIONS[1])
    result = materialise(made, instance)
    assert result.success
    assert "lmsi__raw_generations" in succeeded(result)
    failed = evaluations(result)["no_duplicate_questions"]
    assert (failed.passed, failed.blocking, failed.severity) == (False, False, dg.AssetCheckSeverity.WARN)


def test_metadata_counts_names_and_shows_what_failed(made: Iterations, instance: dg.DagsterInstance) -> None:
    hostile = "<img src=x onerror=alert(1)> | `code` \x1b[31m[link](http://evil.example)"
    made.change_first("lmsi/seed_pool", rows=2, question=hostile)
    failed = evaluations(materialise(made, instance))["no_duplicate_questions"]
    metadata = {name: value.value for name, value in failed.metadata.items()}
    assert metadata["evaluated"] == 4
    assert metadata["unexpected"] == 2
    assert metadata["distinct_questions"] == 3
    assert isinstance(failed.metadata["distinct_questions"], dg.IntMetadataValue)
    assert metadata["failing_ids"] == made.rows("lmsi/seed_pool")["id"].to_list()[:2]
    assert metadata["reason"] == failed.description
    assert str(metadata["reason"]).startswith("2 of 4 questions are asked more than once")
    assert isinstance(failed.metadata["rows"], dg.MarkdownMetadataValue)
    header, _, row, _ = str(metadata["rows"]).splitlines()
    assert header.startswith("| `id` | `question` |")
    assert "``<img src=x onerror=alert(1)> ¦ `code` [link](http://evil.example)``" in row


def test_a_partition_that_is_missing_says_so(made: Iterations, instance: dg.DagsterInstance) -> None:
    shutil.rmtree(made.folder / "lake" / "lmsi" / "seed_pool")
    result = materialise(made, instance)
    assert not result.success
    failure = result.failure_data_for_node("lmsi__seed_pool")
    assert failure is not None
    assert "nothing committed for experiment tiny, iteration 001" in str(failure.user_failure_data)


def test_every_check_of_every_table_is_an_asset_check() -> None:
    keys = [*defs.resolve_asset_graph().asset_check_keys]
    assert (
        len(keys)
        == len(set(keys))
        == sum(
            len(checks_of(table))
            for method in registry.methods().values()
            for table in method.tables.values()
        )
    )
    dataset = {key.name for key in keys if key.asset_key == dg.AssetKey(["lmsi", "filtered_dataset"])}
    assert {"no_duplicates", "decisions_schema", "decisions_parents_exist"} <= dataset


def test_defining_the_checks_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assets = assets_of(registry.method("lmsi"), registry.tables())
    specs = [spec for asset in assets for spec in asset.check_specs]
    spec = next(spec for spec in specs if spec.name == "not_trained_on")
    assert spec.blocking
    assert spec.partitions_def == iterations("lmsi")
