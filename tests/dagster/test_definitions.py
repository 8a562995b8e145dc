"""The code location: every stage is there, its checks beside it, and it loads fast."""

from __future__ import annotations

import subprocess
import sys

import dagster as dg

from selfimprove_dagster import registry
from selfimprove_dagster.definitions import defs
from selfimprove_dagster.quality.suites import checks_of


def test_every_stage_is_an_asset_of_its_methods_group() -> None:
    graph = defs.resolve_asset_graph()
    assert {key.to_user_string(): graph.get(key).group_name for key in graph.get_all_asset_keys()} == {
        table.name: method.name
        for method in registry.methods().values()
        for stage in method.stages
        for table in stage.assets
    }


def test_every_quality_check_stands_beside_its_stage() -> None:
    keys = defs.resolve_asset_graph().asset_check_keys
    names = {(key.asset_key.to_user_string(), key.name) for key in keys}
    for method in registry.methods().values():
        for stage in method.stages:
            for table in stage.writes:
                for check in checks_of(table):
                    own = (table.name, check.name)
                    beside = (stage.table.name, f"{table.stage}_{check.name}")
                    assert (own if table.is_asset else beside) in names


def test_sensors_and_jobs_are_listed() -> None:
    assert {sensor.name for sensor in defs.sensors or []} == {"next_iteration", "seed_inbox"}
    for method in registry.methods():
        assert isinstance(defs.resolve_job_def(f"{method}_iteration"), dg.JobDefinition)
    assert isinstance(defs.resolve_job_def("import_seeds_job"), dg.JobDefinition)


def test_partitions_of_a_method_are_its_own() -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        partitions = graph.get(key).partitions_def
        assert isinstance(partitions, dg.DynamicPartitionsDefinition)
        assert partitions.name == f"{key.path[0]}_iterations"


def test_the_code_location_loads_in_under_five_seconds() -> None:
    code = "import time; import selfimprove_dagster.definitions; print(time.process_time())"
    seconds = float(subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True))
    assert seconds < 5, f"{seconds:.1f} s of processor time"
