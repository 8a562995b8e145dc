"""An iteration killed with SIGKILL at random moments ends as an undisturbed one does.

A run over all methods kills `lmsi` 30 times; any other kills at most five times, of at most two methods.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from kit import killing
from kit.sampling import ROTATING, all_methods, chosen_methods
from kit.tables import filled

from selfimprove_dagster import registry
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.kill, pytest.mark.matrix]

_COMPLETIONS = ("raw_generations", "response_pairs", "critiques", "revisions")


_PLANS = [*killing.PLANS] if all_methods() else chosen_methods(killing.PLANS)[:ROTATING]


@pytest.fixture(scope="module", params=_PLANS)
def plan(request: pytest.FixtureRequest) -> str:
    """The name of the plan of kills."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(plan: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kill")


@pytest.fixture(scope="module")
def report(folder: Path, plan: str) -> dict[str, Any]:
    """What the killing did; its homes lie under `folder`."""
    settings = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(Path(killing.__file__).parents[1])}
    program = [sys.executable, "-m", "kit.killing", str(folder), plan]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def undisturbed(folder: Path, report: dict[str, Any]) -> Lake:
    return Lake(folder / "undisturbed" / "home" / "lake")


@pytest.fixture(scope="module")
def survivors(folder: Path, report: dict[str, Any]) -> list[Lake]:
    """The lakes of the homes in which runs were killed."""
    return [Lake(home / "home" / "lake") for home in sorted(folder.glob("home-*"))]


def test_the_kills_fell_where_they_were_planned(report: dict[str, Any], plan: str) -> None:
    killed = Counter(stage for _, _, stage in report["killed"])
    kills = killing.plan_of(plan).kills
    assert len(report["killed"]) == sum(kills.values())
    assert plan != "lmsi" or not all_methods() or len(report["killed"]) + report["by_time"] >= 30
    assert set(killed) == {stage for stage, count in kills.items() if count}
    assert all(report["moments"][stage] >= 10 for stage in kills)


def test_ids_and_rows_are_those_of_an_undisturbed_run(undisturbed: Lake, survivors: list[Lake]) -> None:
    for lake in survivors:
        for one, other in zip(undisturbed.manifests(), lake.manifests(), strict=True):
            assert one.activity.id == other.activity.id
            before, after = undisturbed.read_whole(one), lake.read_whole(other)
            assert before["id"].is_unique().all()
            may_be_empty = "rejected" in one.table or not filled([registry.table_of(one)])
            assert len(before) > 0 or may_be_empty, one.table
            # How long a checkpoint took differs; its id is made of its weights' hash.
            machine = {"seconds"}
            same = [name for name in before.columns if name not in machine]
            assert before.select(same).equals(after.select(same)), one.table


def test_files_are_the_same_and_none_is_left_over(undisturbed: Lake, survivors: list[Lake]) -> None:
    def names(root: Path) -> set[str]:
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def sums(lake: Lake) -> dict[str, str]:
        return {file.name: file.checksum for one in lake.manifests() for file in one.files}

    # What a model did tells how long it took.
    timed = (*_COMPLETIONS, "comparisons", "reward_model", "evaluation", "fine_tuned_checkpoint", "promotion")
    apart = {
        file.name for one in undisturbed.manifests() for file in one.files if one.table.split("/")[1] in timed
    }
    before = sums(undisturbed)
    assert len(before) > len(apart)
    for lake in survivors:
        assert names(lake.root) == names(undisturbed.root)
        assert names(lake.root.parent / "checkpoints") == names(undisturbed.root.parent / "checkpoints")
        after = sums(lake)
        assert {name for name in before if before[name] != after[name]} <= apart


def test_every_lake_verifies(survivors: list[Lake]) -> None:
    for lake in survivors:
        assert verify(lake).findings == [], lake.root


def test_no_reader_saw_anything_but_whole_partitions(folder: Path, report: dict[str, Any]) -> None:
    assert len((folder / "reads").read_text()) > 20
    assert (folder / "log").read_text() == ""


def test_killed_runs_do_not_show_as_running(
    folder: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for home in folder.glob("home-*"):
        monkeypatch.setenv("DAGSTER_HOME", str(home / "home" / "dagster"))
        with dg.DagsterInstance.get() as instance:
            runs = Counter(run.status for run in instance.get_runs())
        assert runs.pop(dg.DagsterRunStatus.SUCCESS) == 1
        # One that is killed after some time may not have told Dagster of its run yet.
        early = {} if home.name == "home-by-time" else None
        assert runs == early or set(runs) == {dg.DagsterRunStatus.FAILURE}
