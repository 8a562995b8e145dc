"""A stranger's method gets everything without a line of it in the package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.echo import EXPERIMENT, PACKAGE, Stranger

pytestmark = pytest.mark.slow

DEFINED = """
import json, warnings
warnings.simplefilter("ignore")
from selfimprove_dagster.definitions import defs
graph = defs.resolve_asset_graph()
print(json.dumps({
    "assets": {key.to_user_string(): sorted(one.to_user_string() for one in graph.get(key).parent_keys)
               for key in graph.get_all_asset_keys() if key.path[0] == "echo"},
    "checks": sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in graph.asset_check_keys
                     if key.asset_key.path[0] == "echo"),
    "job": defs.resolve_job_def("echo_iteration").name,
    "version": {graph.get(key).code_version for key in graph.get_all_asset_keys() if key.path[0] == "echo"}.pop(),
    "others": len([key for key in graph.get_all_asset_keys() if key.path[0] != "echo"]),
}))
"""

TICK = """
import json, warnings
warnings.simplefilter("ignore")
import dagster as dg
from selfimprove_dagster.definitions import defs
sensor = next(one for one in defs.sensors if one.name == "next_iteration")
with dg.DagsterInstance.ephemeral() as instance:
    from selfimprove_dagster.resources import HomeResource
    context = dg.build_sensor_context(instance=instance, resources={"home": HomeResource()}, definitions=defs)
    result = sensor(context)
    print(json.dumps([[one.job_name, one.partition_key] for one in result.run_requests or []]))
"""

PAGES = """
import json, warnings
warnings.simplefilter("ignore")
from starlette.testclient import TestClient
from selfimprove_dagster.explorer.pages import create_app
from selfimprove_dagster.home.home import Home
client = TestClient(create_app(Home.from_environment(), "http://127.0.0.1:3000"), base_url="http://127.0.0.1")
import sys
print(json.dumps({path: [(answer := client.get(path)).status_code, answer.text] for path in %r}))
"""


REPLACED = (
    "from dataclasses import replace\nfrom echo_method import METHOD as OTHER\n"
    "METHOD = replace(OTHER, name={!r})"
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """The toy method, found by its entry point, after two iterations."""
    stranger = Stranger(tmp_path_factory.mktemp("stranger"), by="entry point")
    stranger.call("run", "loud")
    return stranger


@pytest.fixture
def copied(ran: Stranger, tmp_path: Path) -> Iterator[Stranger]:
    """The same, for a test that writes."""
    stranger = Stranger(tmp_path, by="entry point")
    shutil.rmtree(stranger.home)
    shutil.copytree(ran.home, stranger.home)
    yield stranger


def test_it_gets_assets_with_dependencies_checks_a_job_and_its_release_as_code_version(ran: Stranger) -> None:
    found = json.loads(ran.python(DEFINED))
    assert found["assets"] == {
        "echo/said": [],
        "echo/shouted": ["echo/said"],
        "echo/kept": ["echo/shouted"],
    }
    assert {"echo/shouted:loud", "echo/shouted:unique_ids", "echo/kept:decisions_schema"} <= {
        *found["checks"]
    }
    assert found["job"] == "echo_iteration"
    assert found["version"] == "1 of echo-method-1.0"
    assert found["others"] > 80


def test_it_runs_and_is_many_to_one(ran: Stranger) -> None:
    assert [row["completion"] for row in ran.rows("echo/kept")] == ["HORSE HARE", "MOUSE"]
    assert [len(row["parents"]) for row in ran.rows("echo/kept")] == [2, 1]
    assert [row["text"] for row in ran.rows("echo/shouted", 1)] == ["CAT", "HORSE", "HARE", "MOUSE", "OX"]


def test_the_sensor_starts_it_and_stops_with_its_reason(tmp_path: Path, ran: Stranger) -> None:
    assert json.loads(ran.python(TICK)) == [], "both iterations of its budget are done"
    fresh = Stranger(tmp_path, by="entry point")
    assert json.loads(fresh.python(TICK)) == [["echo_iteration", "loud-000"]]
    fresh.write("loud", {**EXPERIMENT, "loop": False})
    assert json.loads(fresh.python(TICK)) == []


def test_commands_know_it(ran: Stranger) -> None:
    assert "least_length" in ran.call("fields", "echo")
    status = ran.call("status", "loud")
    assert "kept" in status and "iteration budget spent" in status
    assert "loud" in ran.call("compare", "loud")


def test_lineage_answers_for_every_row(ran: Stranger) -> None:
    kept = ran.rows("echo/kept")[0]["id"]
    trace = ran.call("lineage", "trace", kept)
    assert "shouted HORSE" in trace and "horse" in trace
    dropped = next(row for row in ran.rows("echo/shouted") if row["text"] == "CAT")["id"]
    assert "length" in ran.call("lineage", "explain", dropped)
    said = ran.rows("echo/said")[1]["id"]
    assert kept[:12] in ran.call("lineage", "descendants", said)
    ran.call("lineage", "verify")


def test_pages_show_its_nouns(ran: Stranger) -> None:
    kept, shout = ran.rows("echo/kept")[0]["id"], ran.rows("echo/shouted")[0]["id"]
    paths = ["/", "/experiments/loud", "/experiments/loud/0", f"/records/{kept}", f"/records/{shout}"]
    answers = json.loads(ran.python(PAGES % paths))
    assert {path: status for path, (status, _) in answers.items()} == dict.fromkeys(paths, 200)
    assert "group of shouts" in answers[f"/records/{kept}"][1]
    assert "shout" in answers[f"/records/{shout}"][1]


def test_a_row_can_be_revoked_and_what_came_of_it_falls(copied: Stranger) -> None:
    horse = next(row for row in copied.rows("echo/shouted") if row["text"] == "HORSE")["id"]
    copied.call("lineage", "revoke", "--record", horse, "--why", "a test", "--yes")
    assert "a test" in copied.call("lineage", "revocations")
    kept = next(row for row in copied.rows("echo/kept") if row["letter"] == "H")["id"]
    assert "revoked" in copied.call("lineage", "explain", kept)


def test_a_lake_stays_readable_after_its_method_is_gone(ran: Stranger, tmp_path: Path) -> None:
    without = Stranger(tmp_path, by="nothing")
    shutil.rmtree(without.home)
    shutil.copytree(ran.home, without.home)
    kept = ran.rows("echo/kept")[0]["id"]
    assert "HORSE" in without.call("lineage", "trace", kept)
    without.call("lineage", "verify")
    answers = json.loads(without.python(PAGES % [f"/records/{kept}", "/experiments/loud/0"]))
    assert [status for status, _ in answers.values()] == [200, 200]


def test_a_folder_of_ones_own_gives_the_same_rows(ran: Stranger, tmp_path: Path) -> None:
    other = Stranger(tmp_path, by="folder")
    other.call("run", "loud")
    assert [row["content_hash"] for row in other.rows("echo/kept")] == [
        row["content_hash"] for row in ran.rows("echo/kept")
    ]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("raise RuntimeError('out of order')", "out of order"),
        ("METHOD = 1", "not a Method"),
        (
            "from dataclasses import replace\nfrom echo_method import METHOD as M\nMETHOD = replace(M, name='lmsi')",
            "lmsi",
        ),
        (
            "from dataclasses import replace\nfrom echo_method import METHOD as M\nMETHOD = replace(M, name='Echo-2')",
            "name",
        ),
    ],
    ids=["import", "no method", "taken name", "illegal name"],
)
def test_a_broken_method_is_one_warning_and_all_others_work(tmp_path: Path, broken: str, said: str) -> None:
    source = tmp_path / "methods"
    shutil.copytree(PACKAGE, source)
    (source / "zz_broken.py").write_text(broken)
    stranger = Stranger(tmp_path, by="folder", source=source)
    code = (
        "import warnings\nfrom selfimprove_dagster import registry\n"
        "with warnings.catch_warnings(record=True) as found:\n"
        "    warnings.simplefilter('always')\n    names = [*registry.methods()]\n"
        "print(len(found), str(found[0].message) if found else '')\nprint(*names)"
    )
    warned, names = stranger.python(code).splitlines()
    assert warned.startswith("1 ") and said in warned
    assert {"echo", "lmsi", "pit"} <= {*names.split()}
