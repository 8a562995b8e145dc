"""Ray Train as the launcher of several ranks, in a cluster of its own on this machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from kit.ranked_jobs import SETTINGS, job, write_all_rows
from kit.training import weights

from selfimprove_dagster.errors import RankKilled, TrainingError
from selfimprove_dagster.experiment.sections import LaunchSection
from selfimprove_dagster.training import launching
from selfimprove_dagster.training.folders import read_json
from selfimprove_dagster.training.settings import Launch

RAY = Launch(processes=2, by="ray")


def test_the_launcher_changes_no_id_and_needs_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LaunchSection(processes=2).model_dump() == {"processes": 2, "nodes": 1, "strategy": "ddp"}
    assert Launch(**LaunchSection(processes=2, by="ray").model_dump()) == RAY
    assert RAY.determining == Launch(processes=2).determining
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"launch\.by is ray, .*pip install 'selfimprove_dagster\[ray\]'"):
        launching.command(RAY, tmp_path)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("ray", reason="pip install '.[ray]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_all_rows(tmp_path / "rows")
    return tmp_path / "rows"


@pytest.mark.scale
@pytest.mark.parametrize("kind", ["supervised", "grpo"])
def test_ray_trains_what_torchrun_trains(base: Path, rows: Path, tmp_path: Path, kind: str) -> None:
    heard: list[int] = []
    found = {}
    for name, how in (("torchrun", Launch(processes=2)), ("ray", RAY)):
        spec = job(kind, base, rows, tmp_path / name, how)
        found[name] = launching.launch(spec, on_log=lambda entry: heard.append(entry["step"]))
    logs = [
        [{name: value for name, value in entry.items() if name != "seconds"} for entry in one.log]
        for one in found.values()
    ]
    assert logs[0] == logs[1] and len(logs[0]) == SETTINGS[kind].steps
    assert heard == [*range(1, SETTINGS[kind].steps + 1)] * 2
    assert weights(tmp_path / "torchrun") == weights(tmp_path / "ray") != weights(base)
    assert read_json(tmp_path / "ray" / "determinants.json")["settings"]["launch"]["processes"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ray", "rows", "torchrun"]


@pytest.mark.scale
def test_a_rank_that_is_killed_ends_the_training(base: Path, rows: Path, tmp_path: Path) -> None:
    def kill() -> None:
        place = tmp_path / "model.launch"
        while not [*place.glob("*/rank-1.log")]:
            time.sleep(0.05)
        (folder,) = place.iterdir()
        for process in psutil.process_iter():
            try:
                if os.fsencode(folder / "rank-1.log") in {
                    os.fsencode(one.path) for one in process.open_files()
                }:
                    os.kill(process.pid, signal.SIGKILL)
                    return
            except psutil.Error:
                continue

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(RankKilled, match="rank 1 of 2 processes was ended; training can be resumed"):
        launching.launch(job("supervised", base, rows, tmp_path / "model", RAY, steps=500))
    killer.join(10)
    assert not [*tmp_path.glob("model/*.safetensors")]
