"""Several machines share Dagster's storage: each knows only its own processes, and limits only its own models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from selfimprove_dagster import runs
from selfimprove_dagster.assets.recording import HOST_TAG, PROCESS_TAG, model_pool
from selfimprove_dagster.errors import PartitionBusy
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.host import this_host
from selfimprove_dagster.runs import prepare_dagster_home

DEAD = "1@1.00"
"""The name of a process that has ended: process 1 of this host began later."""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    prepare_dagster_home(Home(tmp_path, tmp_path))
    with dg.DagsterInstance.get() as instance:
        yield instance


def started(instance: dg.DagsterInstance, key: str, **tags: str) -> str:
    """The id of a run that has begun to work on a partition."""
    named = {PROCESS_TAG: DEAD, "dagster/partition": key, **tags}
    run = dg.DagsterRun("lmsi_iteration", tags=named, status=dg.DagsterRunStatus.STARTED)
    return instance.add_run(run).run_id


def status(instance: dg.DagsterInstance, run: str) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run)
    assert found is not None
    return found.status


def test_a_killed_run_is_buried_by_its_own_host_only(instance: dg.DagsterInstance) -> None:
    here = started(instance, "demo-000", **{HOST_TAG: this_host()})
    there = started(instance, "demo-001", **{HOST_TAG: "elsewhere"})
    of_earlier_versions = started(instance, "demo-002")
    for run in (here, there, of_earlier_versions):
        instance.event_log_storage.claim_concurrency_slot(model_pool(), run, "lmsi__raw_generations")
    runs.free_ended_runs(instance)
    runs._bury_killed_runs(instance, "demo-003")
    assert status(instance, here) == status(instance, of_earlier_versions) == dg.DagsterRunStatus.FAILURE
    assert status(instance, there) == dg.DagsterRunStatus.STARTED
    with pytest.raises(PartitionBusy, match=f"process, 1 on elsewhere; .*end Dagster's run {there}"):
        runs._bury_killed_runs(instance, "demo-001")


def test_each_machine_has_a_pool_of_one_model(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def may_begin(run: str) -> bool:
        storage = instance.event_log_storage
        return storage.claim_concurrency_slot(model_pool(), run, "raw_generations").is_claimed

    monkeypatch.setattr("socket.gethostname", lambda: "one")
    storage = instance.event_log_storage
    for host in ("one", "two", "of two names"):
        monkeypatch.setenv("SELFIMPROVE_MACHINE", host)
        storage.initialize_concurrency_limit_to_default(model_pool())
    monkeypatch.delenv("SELFIMPROVE_MACHINE")
    assert model_pool() == "model@one"
    assert [may_begin(run) for run in ("first", "second")] == [True, False]
    monkeypatch.setattr("socket.gethostname", lambda: "two")
    assert [may_begin(run) for run in ("third", "fourth")] == [True, False]
    # Two containers on one machine.
    monkeypatch.setenv("SELFIMPROVE_MACHINE", "of two names")
    assert [may_begin(run) for run in ("fifth", "sixth")] == [True, False]


def test_the_stages_that_need_a_model_are_in_the_pool_of_their_machine() -> None:
    from selfimprove_dagster.definitions import defs

    job = defs.resolve_job_def("lmsi_iteration")
    pools = {node.name: node.definition.pool for node in job.nodes}  # type: ignore[attr-defined]
    assert pools["lmsi__raw_generations"] == pools["lmsi__fine_tuned_checkpoint"] == model_pool()
    assert pools["lmsi__voted_answers"] is None
