"""How `ui` ends: with the runs that it started, and with a word about what goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kit.homes import environment_of, make_home
from kit.small_lake import make_experiment

from selfimprove_dagster.host import is_alive, process_name
from selfimprove_dagster.work.attempts import begin, save

pytestmark = pytest.mark.slow

SERVE = """
import sys
from selfimprove_dagster.explorer.server import serve_pages
from selfimprove_dagster.home.home import Home
serve_pages(Home.from_environment(), 0, "http://127.0.0.1:3000", beside=[sys.executable, "-c", sys.argv[1]])
"""

BESIDE = """
import pathlib, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
run = subprocess.Popen([sys.executable, "-c", deaf])
pathlib.Path({file!r}).write_text(str(run.pid))
time.sleep(600)
"""
"""A program that starts a run of its own and, unlike Dagster, leaves it alone at its end."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_runs_of_the_program_beside_end_with_it(tmp_path: Path, number: signal.Signals) -> None:
    home, pid = make_home(tmp_path), tmp_path / "pid"
    serving = subprocess.Popen(
        [sys.executable, "-c", SERVE, BESIDE.format(file=str(pid))],
        env={**os.environ, **environment_of(home), "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text()):
            assert serving.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        run = process_name(int(pid.read_text()))
        for name, process in (("started", run), ("other", process_name(os.getpid()))):
            attempt = begin(
                home.lake,
                make_experiment(tmp_path, name=name),
                0,
                run_id=name,
                number=1,
                inputs="",
                parent=os.getpid(),
                by_person=False,
            )
            save(home.lake, replace(attempt, process=process, parent=process, stage="seed_pool"))
        time.sleep(3)  # until the pages are served
        serving.send_signal(number)
        _, said = serving.communicate(timeout=60)
    finally:
        serving.kill()
        serving.wait()
    assert not is_alive(run)
    assert "stopping iteration 0 of started at seed_pool: finished shards are kept, and it resumes" in said
    assert f"iteration 0 of other at seed_pool goes on in process {os.getpid()}" in said
