"""The code location: every stage is there, its checks beside it, and it loads fast."""

from __future__ import annotations

import subprocess
import sys

import dagster as dg

from selfimprove_dagster import registry
from selfimprove_dagster.assets.checks import DECIDED_WITH
from selfimprove_dagster.definitions import METHODS, defs
from selfimprove_dagster.quality.suites import SUITES
from selfimprove_dagster.tables import TABLES


def test_every_stage_is_an_asset_of_its_methods_group() -> None:
    graph = defs.resolve_asset_graph()
    assert {key.to_user_string(): graph.get(key).group_name for key in graph.get_all_asset_keys()} == {
        table: table.split("/")[0]
        for table in TABLES
        if not table.startswith(("seeds/", "reviews/")) and table not in DECIDED_WITH
    }
    assert set(METHODS) == set(registry.methods())


def test_every_quality_check_stands_beside_its_stage() -> None:
    keys = defs.resolve_asset_graph().asset_check_keys
    names = {(key.asset_key.to_user_string(), key.name) for key in keys}
    for table, checks in SUITES.items():
        for check in checks:
            owner = DECIDED_WITH.get(table)
            assert (owner or table, f"{table.split('/')[1]}_{check.name}" if owner else check.name) in names


def test_sensors_and_jobs_are_listed() -> None:
    assert {sensor.name for sensor in defs.sensors or []} == {
        *(f"next_{method}_iteration" for method in METHODS),
        "seed_inbox",
    }
    assert isinstance(defs.resolve_job_def("lmsi_iteration"), dg.JobDefinition)
    assert isinstance(defs.resolve_job_def("import_seeds_job"), dg.JobDefinition)


def test_the_code_location_loads_in_under_five_seconds() -> None:
    code = "import time; import selfimprove_dagster.definitions; print(time.process_time())"
    seconds = float(subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True))
    assert seconds < 5, f"{seconds:.1f} s of processor time"
