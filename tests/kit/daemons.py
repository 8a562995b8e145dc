"""A real Dagster daemon over an installation of a test's own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit import homes
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.runs import prepare_dagster_home

ROOT = Path(__file__).parents[2]


@contextmanager
def running(folder: Path) -> Iterator[Callable[[Callable[[], bool], float], None]]:
    """A daemon with all sensors started; gives a function that waits until something holds, or fails."""
    workspace = str(folder / "workspace.yaml")
    dagster = Path(sys.executable).parent / "dagster"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [dagster, "sensor", "start", "--start-all", "-w", workspace], env=environment, check=True, cwd=folder
    )
    with (folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [dagster.with_name("dagster-daemon"), "run", "-w", workspace],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

        def wait(until: Callable[[], bool], seconds: float) -> None:
            deadline = time.monotonic() + seconds
            while not until():
                assert process.poll() is None, (folder / "daemon.log").read_text()[-4000:]
                assert time.monotonic() < deadline, (folder / "daemon.log").read_text()[-4000:]
                time.sleep(2)

        try:
            yield wait
        finally:
            process.terminate()
            process.wait(timeout=60)


def make_home(folder: Path, monkeypatch: pytest.MonkeyPatch, *experiments: Mapping[str, Any]) -> Home:
    """An installation with these experiments, its own Dagster home and a workspace."""
    home = homes.enter(homes.make_home(folder, *experiments), monkeypatch)
    location = {
        "relative_path": str(Path(__file__).with_name("in_process_location.py")),
        "working_directory": str(ROOT),
    }
    (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"python_file": location}]}))
    prepare_dagster_home(home)
    return home
