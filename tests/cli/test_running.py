"""`run` in a process of its own: interrupts, waiting for the model, further attempts, and what hooks are given."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kit.homes import environment_of, make_home
from kit.small_lake import SMALL_EXPERIMENT

from selfimprove_dagster.home.home import Home
from selfimprove_dagster.loop.state import State, state_of

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).parent / "selfimprove"

LONG = {**SMALL_EXPERIMENT, "sampling": {"questions": 200, "paths": 16, "shard_questions": 2}}
"""An experiment whose sampling takes minutes, so that it can be caught at work."""

NOWHERE = {"engine": "openai", "server": {"url": "http://127.0.0.1:9/v1", "attempts": 1, "deadline": 5}}
"""A server that nobody started."""


@contextmanager
def running(home: Home, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [PROGRAM, *arguments],
        env={**os.environ, **environment_of(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(home: Home, *arguments: str, code: int = 0) -> str:
    with running(home, *arguments) as process:
        out, _ = process.communicate(timeout=400)
    assert process.returncode == code, out
    return out


def state(home: Home, name: str) -> State:
    return state_of(home.lake, home.chain(name))


def until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)


def at_work(home: Home, name: str) -> bool:
    found = state(home, name)
    attempt = found.attempt
    return (
        found.kind == "running" and attempt is not None and attempt.progress is not None and attempt.has_model
    )


def test_an_interrupt_says_that_the_same_command_resumes(tmp_path: Path) -> None:
    home = make_home(tmp_path, {**LONG, "name": "long"}, {**LONG, "name": "second"})
    for number, name in ((signal.SIGINT, "long"), (signal.SIGTERM, "second")):
        with running(home, "run", name) as process:
            until(lambda name=name: at_work(home, name), process)  # type: ignore[misc]
            found = json.loads(run(home, "status", name, "--json"))
            assert (found["state"], found["stage"], found["iteration"]) == ("running", "raw_generations", 0)
            assert 0 < found["done"] < found["total"] and found["process"] == str(process.pid)
            os.kill(process.pid, number)
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert out.splitlines()[-1] == "stopped; the same command resumes"
        assert state(home, name).kind == "stopped"
        assert "state: stopped: a person stopped iteration 0 of lmsi at raw_generations" in run(
            home, "status", name
        )


def test_a_run_says_who_has_the_model_and_when_it_is_free(tmp_path: Path) -> None:
    home = make_home(tmp_path, {**LONG, "name": "first"}, {**LONG, "name": "second"})
    with running(home, "run", "first") as first:
        until(lambda: at_work(home, "first"), first)
        with running(home, "run", "second") as second:
            until(lambda: state(home, "second").kind == "waiting", second)
            waiting = state(home, "second")
            assert waiting.holder is not None and waiting.holder.experiment == "first"
            assert f"process {first.pid}" in waiting.reason
            time.sleep(3)  # it says so at its next look, twice a second
            os.kill(first.pid, signal.SIGINT)
            assert first.wait(60) == 130
            until(lambda: at_work(home, "second"), second)
            os.kill(second.pid, signal.SIGINT)
            out, _ = second.communicate(timeout=60)
    lines = [line for line in out.splitlines() if "the model" in line]
    assert lines[0].startswith("waiting for the model: iteration 0 of first has had it for ")
    assert "(stage raw_generations, " in lines[0]
    assert lines[1].startswith("the model is free after ")


@pytest.mark.rotates
def test_a_run_that_waits_for_the_model_can_be_interrupted(tmp_path: Path) -> None:
    home = make_home(tmp_path, {**LONG, "name": "first"}, {**LONG, "name": "second"})
    with running(home, "run", "first") as first:
        until(lambda: at_work(home, "first"), first)
        with running(home, "run", "second") as second:
            until(lambda: state(home, "second").kind == "waiting", second)
            os.kill(second.pid, signal.SIGINT)
            out, _ = second.communicate(timeout=60)
            assert second.returncode == 130
    assert out.splitlines()[-1] == "stopped; the same command resumes"
    assert state(home, "second").kind == "stopped"


@pytest.mark.rotates
def test_the_model_of_a_killed_run_is_free_at_once(tmp_path: Path) -> None:
    home = make_home(tmp_path, {**LONG, "name": "first"}, {**LONG, "name": "second"})
    with running(home, "run", "first") as first:
        until(lambda: at_work(home, "first"), first)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        assert state(home, "first").kind == "failed"
        with running(home, "run", "second") as second:
            until(lambda: at_work(home, "second"), second)


def test_a_server_that_does_not_answer_is_tried_as_often_as_the_experiment_says(tmp_path: Path) -> None:
    told = tmp_path / "told.jsonl"
    settings: dict[str, Any] = {
        **SMALL_EXPERIMENT,
        "name": "offline",
        "model": {**SMALL_EXPERIMENT["model"], **NOWHERE},
        "retries": {"attempts": 2, "wait": 0.5},
        "on_stop": {"command": f"cat >> {told}; echo >> {told}"},
    }
    home = make_home(tmp_path, settings)
    out = run(home, "run", "offline", code=1)
    assert "attempt 2 of 2 starts in" in out and "attempt 3" not in out
    assert out.count("127.0.0.1:9") == 3, "before the first attempt, and in both"
    found = state(home, "offline")
    assert found.kind == "failed" and found.has_ended and "no attempt is left" in found.reason
    (line,) = told.read_text().splitlines()
    assert json.loads(line)["state"] == "failed"
    assert "state: failed: iteration 0 of lmsi, attempt 2 of 2: seed_pool:" in run(home, "status", "offline")


def test_a_blocking_check_is_not_tried_again(tmp_path: Path) -> None:
    told = tmp_path / "told.jsonl"
    settings: dict[str, Any] = {
        **SMALL_EXPERIMENT,
        "name": "gated",
        # What is learnt from is also what is measured on.
        "seeds": {"file": "heldout.jsonl"},
        "evaluation": {"file": "heldout.jsonl"},
        "on_stop": {"command": f"cat >> {told}; echo >> {told}"},
    }
    home = make_home(tmp_path, settings)
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(8)]
    (home.experiments / "heldout.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = run(home, "run", "gated", code=1)
    assert "the check" in out and "attempt" not in out
    found = state(home, "gated")
    assert found.kind == "blocked" and found.gates[0].table == "lmsi/seed_pool"
    (line,) = told.read_text().splitlines()
    said = json.loads(line)
    assert (said["state"], said["checks"][0]["check"]) == ("blocked", found.gates[0].check)
    assert f"state: blocked: iteration 0 by the check {found.gates[0].check}" in run(home, "status", "gated")
