"""Two hosts that share a home never write to the same temporary file, and delete only their own leftovers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfimprove_dagster.host import delete_left, temporary_path, was_left
from selfimprove_dagster.lake import disk
from selfimprove_dagster.lake.disk import write_atomically


def test_a_temporary_name_holds_the_host_the_process_and_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node-1.example.org")
    first, second = temporary_path(tmp_path / "manifest.json"), temporary_path(tmp_path / "manifest.json")
    assert first != second and first.parent == tmp_path
    assert first.name.startswith(f".manifest.json.node-1-example-org.{os.getpid()}@")
    assert first.suffix == ".tmp"


def test_two_hosts_with_the_same_pid_write_to_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One host writes in the middle of the other's writing: neither file is a mixture."""
    path = tmp_path / "manifest.json"
    whole = disk.sync
    written: list[str] = []

    def meanwhile(file: Path) -> None:
        if not written:
            written.append(file.name)
            monkeypatch.setattr("socket.gethostname", lambda: "other")
            write_atomically(path, b"other" * 1000)
            monkeypatch.setattr("socket.gethostname", lambda: "one")
            assert path.read_bytes() == b"other" * 1000
        whole(file)

    monkeypatch.setattr(disk, "sync", meanwhile)
    monkeypatch.setattr("socket.gethostname", lambda: "one")
    write_atomically(path, b"one" * 1000)
    assert path.read_bytes() == b"one" * 1000
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


def test_only_what_ended_processes_of_this_host_left_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = tmp_path / "rows"
    monkeypatch.setattr("socket.gethostname", lambda: "one")
    name = f"{ended.pid}@12.50.0123abcd.tmp"
    kept = {temporary_path(path), tmp_path / f".rows.two.{name}", tmp_path / f".rows2.one.{name}"}
    for file in (*kept, tmp_path / f".rows.one.{name}"):
        file.touch()
    delete_left(path)
    assert {*tmp_path.iterdir()} == kept
    assert not was_left("backup") and not was_left("")
