"""A lake and a Dagster instance that version 0 made still open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).parents[1] / "data" / "home_of_version_0.tar.xz"

PARTITIONS = """
import json, warnings
warnings.simplefilter("ignore")
import dagster as dg
from selfimprove_dagster.definitions import defs
from selfimprove_dagster.resources import HomeResource
sensor = next(one for one in defs.sensors if one.name == "next_iteration")
with dg.DagsterInstance.get() as instance:
    before = instance.get_dynamic_partitions("iterations")
    context = dg.build_sensor_context(instance=instance, resources={"home": HomeResource()}, definitions=defs)
    asked = sorted((one.job_name, one.partition_key) for one in sensor(context).run_requests or [])
    print(json.dumps({
        "before": sorted(before),
        "left": instance.get_dynamic_partitions("iterations"),
        "lmsi": instance.get_dynamic_partitions("lmsi_iterations"),
        "rlaif": instance.get_dynamic_partitions("rlaif_iterations"),
        "asked": asked,
        "seen": len(instance.get_materialized_partitions(dg.AssetKey(["lmsi", "seed_pool"]))),
    }))
"""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the old home is the installation."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return {
        **os.environ,
        "SELFIMPROVE_HOME": str(folder / "home"),
        "SELFIMPROVE_EXPERIMENTS": str(folder / "experiments"),
        "DAGSTER_HOME": str(folder / "home" / "dagster"),
        "COLUMNS": "200",
    }


def said(old: dict[str, str], *command: str) -> str:
    done = subprocess.run([sys.executable, *command], env=old, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_lake_verifies_and_can_be_asked(old: dict[str, str]) -> None:
    assert not (Path(old["SELFIMPROVE_HOME"]) / "lake" / "format.json").exists()
    assert "326" in said(old, "-W", "ignore", "-m", "selfimprove_dagster.cli", "lineage", "verify")
    for name in ("sums", "judge"):
        status = said(old, "-W", "ignore", "-m", "selfimprove_dagster.cli", "status", name)
        assert "iteration 1" in status
    example = said(old, "-W", "ignore", "-m", "selfimprove_dagster.cli", "lineage", "example", "sums")
    assert "ex:" in example


def test_its_instance_gets_a_partition_set_a_method_and_goes_on(old: dict[str, str]) -> None:
    found = json.loads(said(old, "-c", PARTITIONS))
    assert found["before"] == ["judge-000", "sums-000"]
    assert found["left"] == []
    assert found["lmsi"] == ["sums-000"]
    assert found["rlaif"] == ["judge-000"]
    assert found["asked"] == [["lmsi_iteration", "sums-001"], ["rlaif_iteration", "judge-001"]]
    assert found["seen"] == 1, "what was materialised before still shows"
