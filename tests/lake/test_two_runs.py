"""Two processes told to do the same iteration: one does it, the other says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kit import killing
from kit.small_lake import activity_of

from selfimprove_dagster.home.home import Home
from selfimprove_dagster.methods.lmsi.tables import RAW_GENERATIONS

pytestmark = [pytest.mark.slow, pytest.mark.rotates]

PROGRAM = [str(Path(sys.executable).parent / "selfimprove"), "run", "small"]


def environment(home: Home, dagster: str = "dagster") -> dict[str, str]:
    folders = {
        "SELFIMPROVE_HOME": home.root,
        "SELFIMPROVE_EXPERIMENTS": home.experiments,
        "DAGSTER_HOME": home.root / dagster,
    }
    return {**os.environ, **{name: str(path) for name, path in folders.items()}}


def run(home: Home, dagster: str = "dagster") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        PROGRAM, env=environment(home, dagster), capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    folder = killing.new_home(tmp_path / "installation")
    return Home(root=folder / "home", experiments=folder / "experiments")


def test_the_second_run_of_an_iteration_is_refused_while_the_first_goes_on(home: Home) -> None:
    first = subprocess.Popen(
        PROGRAM, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not list(home.lake.root.glob("lmsi/raw_generations/*/*/part-*.parquet")):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        begun = {path.name: path.stat().st_mtime_ns for path in home.lake.root.rglob("part-*.parquet")}
        second = run(home)
        assert second.returncode == 1
        assert second.stderr == (
            f"error: small-000 is being run by another process, {first.pid}; "
            "wait until it ends, or stop it, then run again\n"
        )
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=120) == 0
    ended = {path.name: path.stat().st_mtime_ns for path in home.lake.root.rglob("part-*.parquet")}
    assert {name: ended[name] for name in begun} == begun, "nothing was made twice"


def test_a_partition_that_is_being_written_elsewhere_is_refused_in_one_line(home: Home) -> None:
    """By a process that Dagster's storage here knows nothing of: the partition's own lock tells."""
    elsewhere = activity_of(RAW_GENERATIONS, partition={"experiment": "small", "iteration": "000"})
    with home.lake.writer(RAW_GENERATIONS, elsewhere):
        refused = run(home)
    assert refused.returncode == 1
    assert (
        "lmsi__raw_generations: lmsi/raw_generations experiment small, iteration 000 is being written by "
        "another process; wait until it ends, or stop it, then run again\n"
    ) in refused.stdout
    assert "Traceback" not in refused.stdout + refused.stderr
    assert run(home).returncode == 0
