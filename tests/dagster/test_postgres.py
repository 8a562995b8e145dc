"""Dagster's storage in a real Postgres: the daemon, its queue and a process per step make the ids that SQLite makes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import dagster as dg
import pytest
import yaml
from kit import daemons, homes, postgres
from kit.daemons import ROOT

from selfimprove_dagster.assets.recording import PROCESS_TAG
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.home.imports import import_file
from selfimprove_dagster.loop.rules import finished_iterations
from selfimprove_dagster.runs import run_iteration

pytestmark = pytest.mark.scale
pytest.importorskip("dagster_postgres", reason="pip install '.[postgres]'")

EXPERIMENT = {
    "name": "tiny",
    "method": "refinement",
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded"},
    "evaluation": {"file": "embedded", "rows": "0:8"},
    "responses": {"prompts": 8, "max_tokens": 16},
    "refining": {"rounds": 1, "max_tokens": 16},
    "budget": {"iterations": 1},
}


def ids(home: Home) -> dict[str, list[str]]:
    """The ids of all rows, by table and iteration, in their order."""
    return {
        f"{one.table} {one.iteration}": home.lake.read_whole(one)["id"].to_list()
        for one in home.lake.manifests(experiment="tiny")
    }


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An iteration in one process, with Dagster's own storage."""
    home = homes.make_home(tmp_path_factory.mktemp("sqlite"), EXPERIMENT)
    with homes.entered(home):
        assert run_iteration(home, home.experiment("tiny"), 0) == []
    return home


@pytest.fixture(scope="module")
def on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """The same iteration by the daemon, in a process per step; then its evaluation again by the command line."""
    folder = tmp_path_factory.mktemp("postgres")
    home = homes.make_home(folder, EXPERIMENT)
    with postgres.running() as variables, homes.entered(home) as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        home.dagster.mkdir(parents=True)
        shutil.copy(ROOT / "deploy" / "dagster.yaml", home.dagster)
        location = {"module_name": "selfimprove_dagster.definitions", "working_directory": str(ROOT)}
        (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"python_module": location}]}))
        experiment = home.experiment("tiny")
        import_file(home.lake, experiment)
        with daemons.running(folder) as wait:
            wait(_has_ended, 540)
        assert len(finished_iterations(home.lake, experiment)) == 1
        assert run_iteration(home, experiment, 0, ["refinement/evaluation"]) == []
        yield home


def _has_ended() -> bool:
    """Whether the daemon's run is over: its last stage is committed somewhat earlier."""
    with dg.DagsterInstance.get() as instance:
        return any(run.is_finished for run in instance.get_runs())


def test_the_rows_have_the_ids_that_they_have_with_sqlite(on_sqlite: Home, on_postgres: Home) -> None:
    assert ids(on_postgres) == ids(on_sqlite)
    assert len(ids(on_postgres)) >= 5 and sum(map(len, ids(on_postgres).values())) > 100


def test_the_runs_are_in_postgres_and_the_first_went_through_the_queue(on_postgres: Home) -> None:
    with dg.DagsterInstance.get() as instance:
        assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
        runs = {PROCESS_TAG in run.tags: run for run in instance.get_runs()}
        assert {run.status for run in runs.values()} == {dg.DagsterRunStatus.SUCCESS}
        by_command, by_daemon = _kinds(instance, runs[True]), _kinds(instance, runs[False])
    apart = {"PIPELINE_ENQUEUED", "STEP_WORKER_STARTED"}  # in the queue, and a process per step
    assert apart <= by_daemon and not apart & by_command
    assert not [*on_postgres.dagster.rglob("*.db")], "nothing is in SQLite besides"


def _kinds(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[str]:
    """The kinds of the events of a run."""
    events = (one.dagster_event for one in instance.all_logs(run.run_id))
    return {one.event_type_value for one in events if one}
