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


COMPARED = """
import sys
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.loop.comparison import cells, markdown, summarise
home = Home.from_environment()
print(markdown([cells(summarise(home.lake, home.experiment(sys.argv[1])))]))
"""

PAGES = """
import json, sys
from starlette.testclient import TestClient
from selfimprove_dagster.explorer.pages import create_app
from selfimprove_dagster.home.home import Home
client = TestClient(create_app(Home.from_environment(), "http://127.0.0.1:3000"), base_url="http://127.0.0.1:3001")
got = [client.get(f"/experiments/{sys.argv[1]}{of}") for of in ("", "/0")]
print(json.dumps({"codes": [one.status_code for one in got], "text": "".join(one.text for one in got)}))
"""

CHECKS = """
import json
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.quality.suites import run_suite
home = Home.from_environment()
print(json.dumps({
    table: [
        f"{one.name}: {one.reason}"
        for one in run_suite(table, home.lake, home.experiment(name), 0)
        if not one.passed
    ]
    for table, name in (("lmsi/promotion", "sums"), ("rlaif/promotion", "judge"))
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
    for name in ("sums", "judge"):
        assert f"| {name}" in said(old, "-W", "ignore", "-c", COMPARED, name)
        pages = json.loads(said(old, "-W", "ignore", "-c", PAGES, name))
        assert pages["codes"] == [200, 200] and "not promoted" in pages["text"]
    checks = json.loads(said(old, "-W", "ignore", "-c", CHECKS))
    assert checks == {"lmsi/promotion": [], "rlaif/promotion": []}


def test_its_instance_gets_a_partition_set_a_method_and_goes_on(old: dict[str, str]) -> None:
    found = json.loads(said(old, "-c", PARTITIONS))
    assert found["before"] == ["judge-000", "sums-000"]
    assert found["left"] == []
    assert found["lmsi"] == ["sums-000"]
    assert found["rlaif"] == ["judge-000"]
    assert found["asked"] == [["lmsi_iteration", "sums-001"], ["rlaif_iteration", "judge-001"]]
    assert found["seen"] == 1, "what was materialised before still shows"
