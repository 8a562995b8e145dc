"""A full disk and a read-only one, end to end: a clear error, the lake as it was, and on from there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import killing

from selfimprove_dagster.assets import factory
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.partition import PartitionWriter
from selfimprove_dagster.lineage.verify import verify
from selfimprove_dagster.runs import run_iteration

pytestmark = [pytest.mark.slow, pytest.mark.rotates]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB; skipped where this process may not mount one."""
    point = tmp_path / "disk"
    point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(point)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)


@pytest.fixture
def home(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The experiment of the kill test on the small disk; Dagster's own storage lies elsewhere."""
    folder = killing.new_home(disk / "installation")
    monkeypatch.setenv("SELFIMPROVE_HOME", str(folder / "home"))
    monkeypatch.setenv("SELFIMPROVE_EXPERIMENTS", str(folder / "experiments"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    return Home.from_environment()


def leave(disk: Path, kilobytes: int) -> None:
    """Fill the disk but for so much."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    room = os.statvfs(disk)
    with filler.open("wb") as stream:
        stream.write(b"x" * (room.f_bavail * room.f_frsize - kilobytes * 1024))


def committed(home: Home) -> dict[str, str]:
    return {str(one.directory): one.activity.id for one in home.lake.manifests()}


REMEDY = "the disk is full: free some space, then run again; committed shards are kept"


def test_a_run_says_that_the_disk_is_full_and_goes_on_when_there_is_room(
    home: Home, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = home.experiment("small")
    write_shard = PartitionWriter.write_shard

    def fills_up(writer: PartitionWriter, index: int, *arguments: Any, **named: Any) -> None:
        if index == 2:
            leave(disk, 4)
        write_shard(writer, index, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(PartitionWriter, "write_shard", fills_up)
        (problem,) = run_iteration(home, experiment, 0)
    assert problem.startswith(f"lmsi__raw_generations: cannot write {home.root}") and problem.endswith(REMEDY)
    assert len(list(home.lake.root.glob("lmsi/raw_generations/*/*/part-*"))) == 2, "what was drawn is kept"
    before = committed(home)
    (problem,) = run_iteration(home, experiment, 0)
    assert problem.startswith("lmsi__seed_pool: experiment small cannot run yet"), "nothing is begun"
    assert "the next iteration trains 1 model" in problem and "free some space" in problem
    leave(disk, 20_000)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    (problem,) = run_iteration(home, experiment, 0)
    assert "the file system is read-only: set SELFIMPROVE_HOME to a writable folder" in problem
    assert str(home.root) in problem
    assert committed(home) == before
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    # So little that a checkpoint's weights do not fit, and then that its optimiser's state does not: others fill the
    # disk after the checks of the first stage.
    monkeypatch.setattr(factory, "check_ready", lambda *_: None)
    for kilobytes in (1_000, 6_000):
        leave(disk, kilobytes)
        (problem,) = run_iteration(home, experiment, 0)
        assert problem.startswith(f"lmsi__fine_tuned_checkpoint: cannot write {home.root}"), problem
        assert problem.endswith(REMEDY)
        assert verify(home.lake).findings == []
        assert before.items() <= committed(home).items()
        before = committed(home)
    (disk / "filler").unlink()
    assert run_iteration(home, experiment, 0) == []
    assert verify(home.lake).findings == []
    assert not [path for path in home.root.rglob("*") if path.suffix in (".tmp", ".partial")]
