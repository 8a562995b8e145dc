"""Dagster's own storage survives a kill while it is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest

from selfimprove_dagster.home.home import Home
from selfimprove_dagster.runs import prepare_dagster_home

_KILLED = """
import os, signal, sys
from pathlib import Path
from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata

def first_table_only(engine):
    next(iter(SqlEventLogStorageMetadata.sorted_tables)).create(engine)
    os.kill(os.getpid(), signal.SIGKILL)

SqlEventLogStorageMetadata.create_all = first_table_only
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.runs import prepare_dagster_home
prepare_dagster_home(Home(Path(sys.argv[1]), Path(sys.argv[1])))
"""


def test_a_storage_whose_making_was_killed_is_made_whole_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len([*tmp_path.glob(".dagster-*")]) == 1
    prepare_dagster_home(Home(tmp_path, tmp_path))
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("echo_iterations", ["mine-000"])
        assert instance.get_dynamic_partitions("echo_iterations") == ["mine-000"]
    assert not [*tmp_path.glob(".dagster-*")]


def test_only_folders_of_killed_processes_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    started = psutil.Process().create_time()
    names = {
        "live": f".dagster-here.{os.getpid()}@{started:.2f}.0123abcd",
        "reused pid": f".dagster-here.{os.getpid()}@{started - 60:.2f}.0123abcd",
        "of another host": f".dagster-there.{os.getpid()}@{started - 60:.2f}.0123abcd",
        "of a person": ".dagster-backup",
        "of another storage": f".dagster2-here.{os.getpid()}@{started - 60:.2f}.0123abcd",
    }
    for folder in (tmp_path / "dagster", *(tmp_path / name for name in names.values())):
        folder.mkdir()
    prepare_dagster_home(Home(tmp_path, tmp_path))
    left = {path.name for path in tmp_path.glob(".dagster*")}
    assert {what for what, name in names.items() if name in left} == names.keys() - {"reused pid"}
