"""Every state of an experiment, reached with a real daemon whose sensor starts, repeats and leaves alone."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from kit.daemons import make_home, running
from kit.small_lake import SMALL_EXPERIMENT

from selfimprove_dagster.home.home import Home
from selfimprove_dagster.home.imports import import_file
from selfimprove_dagster.loop.state import State, state_of

pytestmark = [pytest.mark.slow, pytest.mark.rotates]

SECONDS = 600.0

TICKS = 40.0
"""Seconds in which the sensor is evaluated at least twice."""

SHORT: dict[str, Any] = {
    **SMALL_EXPERIMENT,
    "evaluation": {**SMALL_EXPERIMENT["evaluation"], "rows": "0:8"},
    "sampling": {"questions": 4, "paths": 2, "shard_questions": 4},
    "training": {"steps": 1, "batch_size": 2},
    "budget": {"iterations": 1},
    "filter": {"minimum_vote_share": 0.0},
}
LONG: dict[str, Any] = {**SHORT, "sampling": {"questions": 200, "paths": 16, "shard_questions": 2}}
NOWHERE = {"engine": "openai", "server": {"url": "http://127.0.0.1:9/v1", "attempts": 1, "deadline": 5}}
HELD_OUT = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(8)]


def experiments(told: Path) -> list[dict[str, Any]]:
    """One experiment for each way in which a loop can go; all of them add their end to a file."""
    model = SHORT["model"]
    settings: list[dict[str, Any]] = [
        {**SHORT, "name": "finishes"},
        {**SHORT, "name": "seedless"},
        {**SHORT, "name": "off", "loop": False},
        {**LONG, "name": "killed", "retries": {"attempts": 3, "wait": 0}},
        {**SHORT, "name": "offline", "model": {**model, **NOWHERE}, "retries": {"attempts": 2, "wait": 0}},
        {**SHORT, "name": "wrong", "model": {"path": "no_such_folder"}, "seeds": {"file": "seeds.txt"}},
        {
            **SHORT,
            "name": "gated",
            "seeds": {"file": "heldout.jsonl"},
            "evaluation": {"file": "heldout.jsonl"},
        },
    ]
    return [{**one, "on_stop": {"command": f"cat >> {told}; echo >> {told}"}} for one in settings]


class Watched:
    """The home, what its experiments were seen doing, and what the daemon made of them."""

    def __init__(self, home: Home, told: Path, wait: Callable[[Callable[[], bool], float], None]) -> None:
        self.home, self.told, self._wait = home, told, wait

    def state(self, name: str) -> State:
        return state_of(self.home.lake, self.home.chain(name))

    def wait_for(self, name: str, holds: Callable[[State], bool]) -> State:
        seen: list[State] = []

        def found() -> bool:
            seen.append(self.state(name))
            return holds(seen[-1])

        try:
            self._wait(found, SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{name}: {seen[-1].in_words}\n{error}") from None
        return seen[-1]

    def runs(self, name: str) -> list[dg.DagsterRun]:
        """The runs of an experiment's iterations, oldest first."""
        with dg.DagsterInstance.get() as instance:
            found = instance.get_runs(dg.RunsFilter(tags={"selfimprove/experiment": name}))
        return [run for run in reversed(found) if "dagster/partition" in run.tags]

    def ends(self, name: str) -> list[dict[str, Any]]:
        """What the hook was given about an experiment."""
        lines = self.told.read_text().splitlines() if self.told.exists() else []
        return [said for said in map(json.loads, lines) if said["experiment"] == name]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("states")
    with pytest.MonkeyPatch.context() as patch:
        home = make_home(folder, patch, *experiments(folder / "told.jsonl"))
        (home.experiments / "heldout.jsonl").write_text("\n".join(map(json.dumps, HELD_OUT)))
        (home.experiments / "seeds.txt").write_text("What is 2 + 2?\nWhat is 3 + 3?\n")
        for name in ("finishes", "off", "killed", "offline", "wrong", "gated"):
            import_file(home.lake, home.experiment(name))
        ready = state_of(home.lake, home.chain("finishes"))
        assert ready.kind == "ready"
        with running(folder) as wait:
            yield Watched(home, folder / "told.jsonl", wait)


def test_a_killed_run_is_repeated_others_wait_for_its_model_and_a_person_stops_it(watched: Watched) -> None:
    first = watched.wait_for(
        "killed",
        lambda state: (
            state.kind == "running"
            and state.attempt is not None
            and state.attempt.progress is not None
            and state.attempt.has_model
        ),
    )
    assert first.attempt is not None and first.attempt.number == 1
    other = watched.wait_for("finishes", lambda state: state.kind == "waiting" and state.holder is not None)
    assert "of killed has had it for" in other.reason
    os.kill(int(first.attempt.process.split("@")[0]), signal.SIGKILL)
    killed = watched.state("killed")
    assert killed.kind == "failed" and killed.retry_at is not None and "was killed" in killed.reason
    second = watched.wait_for(
        "killed",
        lambda state: (
            state.kind == "running"
            and state.attempt is not None
            and state.attempt.number == 2
            and state.attempt.has_model
        ),
    )
    assert "attempt 2 of 3" in second.reason
    with dg.DagsterInstance.get() as instance:
        instance.run_coordinator.cancel_run(watched.runs("killed")[-1].run_id)
    watched.wait_for("killed", lambda state: state.kind == "stopped")


def test_an_experiment_finishes_and_says_why(watched: Watched) -> None:
    found = watched.wait_for("finishes", lambda state: state.kind == "finished")
    assert found.reason == "iteration budget spent: 1 of 1 iterations are done"


def test_a_blocking_check_is_not_repeated_until_its_input_changes(watched: Watched) -> None:
    found = watched.wait_for("gated", lambda state: state.kind == "blocked")
    assert found.gates[0].table == "lmsi/seed_pool" and found.remedy
    time.sleep(TICKS)
    assert len(watched.runs("gated")) == 1
    file = watched.home.experiments / "gated.yaml"
    settings = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**settings, "evaluation": SHORT["evaluation"]}))
    watched.wait_for("gated", lambda state: state.kind == "finished")
    assert len(watched.runs("gated")) == 2


def test_a_server_that_does_not_answer_is_tried_up_to_the_limit(watched: Watched) -> None:
    found = watched.wait_for("offline", lambda state: state.kind == "failed" and state.retry_at is None)
    assert "attempt 2 of 2" in found.reason and "no attempt is left" in found.reason
    assert len(watched.runs("offline")) == 2


def test_an_error_that_would_come_again_is_not_repeated(watched: Watched) -> None:
    found = watched.wait_for("wrong", lambda state: state.kind == "failed")
    assert "another attempt would fail as well" in found.reason
    assert len(watched.runs("wrong")) == 1


def test_what_shall_not_start_does_not(watched: Watched) -> None:
    assert watched.state("seedless").kind == "not started" and not watched.runs("seedless")
    assert watched.state("off").kind == "ready" and not watched.runs("off")


def test_each_end_was_reported_once_and_nothing_is_asked_for_again(watched: Watched) -> None:
    """The last test: the others have waited for the ends."""
    runs = {name: len(watched.runs(name)) for name in ("finishes", "killed", "gated", "offline", "wrong")}
    time.sleep(TICKS)
    assert {name: len(watched.runs(name)) for name in runs} == runs
    assert [one["state"] for one in watched.ends("finishes")] == ["finished"]
    assert [one["state"] for one in watched.ends("gated")] == ["blocked", "finished"]
    assert [one["state"] for one in watched.ends("offline")] == ["failed"]
    assert [one["state"] for one in watched.ends("wrong")] == ["failed"]
    assert not watched.ends("killed") and not watched.ends("seedless") and not watched.ends("off")
    assert watched.state("killed").kind == "stopped" and runs["killed"] == 2
