"""TensorBoard, Weights & Biases, MLflow and Trackio on this machine: nothing leaves it, and a resumed run goes on."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from kit.training import ENVIRONMENT, SETTINGS, Interrupted, interrupt_at, make_examples, weights

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.training import watching
from selfimprove_dagster.training.supervised import fine_tune
from selfimprove_dagster.training.watching import MODULES, WatchSettings

RUN = "mine/000/lmsi.fine_tuned_checkpoint/1a2b3c4d"
KEYS = (
    "WANDB_API_KEY",
    "WANDB_MODE",
    "WANDB_DIR",
    "MLFLOW_TRACKING_URI",
    "TRACKIO_DIR",
    "TENSORBOARD_LOGGING_DIR",
)


@pytest.fixture(autouse=True)
def without_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def _set_here() -> dict[str, str]:
    services = ("WANDB", "MLFLOW", "TRACKIO", "TENSORBOARD")
    own = "WANDB_SERVICE"  # where the process that wandb starts listens
    return {name: value for name, value in os.environ.items() if name.startswith(services) and name != own}


def killed_and_resumed(base: Path, folder: Path, service: str) -> Path:
    """Train until step 13, and again to the end; the folder of what the service was told."""
    before = _set_here()
    watch = WatchSettings([service], "mine", RUN, str(folder / "watch"))
    settings = dataclasses.replace(SETTINGS, watch=watch)
    with pytest.raises(Interrupted):
        fine_tune(base, make_examples(), folder / "model", settings, seed=7, on_log=interrupt_at(13))
    fine_tune(base, make_examples(), folder / "model", settings, seed=7)
    assert _set_here() == before
    fine_tune(base, make_examples(), folder / "unseen", SETTINGS, seed=7)
    assert weights(folder / "model") == weights(folder / "unseen"), "being watched changes nothing"
    determinants = [(folder / name / "determinants.json").read_text() for name in ("model", "unseen")]
    assert determinants[0] == determinants[1]
    return folder / "watch" / service


@pytest.mark.train
def test_tensorboard_has_the_losses_of_a_resumed_run(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = killed_and_resumed(base, tmp_path, "tensorboard")
    events = EventAccumulator(str(folder / RUN))
    events.Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    assert {*steps} == {*range(1, 25)} and steps[-1] == 24
    assert {path.parent for path in folder.rglob("events*")} == {folder / RUN}, "one run"


@pytest.mark.train
def test_wandb_is_offline_without_a_key(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = killed_and_resumed(base, tmp_path, "wandb")
    runs = sorted(path.name for path in (folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 2 and len({name.rpartition("-")[2] for name in runs}) == 1, "two attempts, one id"
    assert not [*(folder / "wandb").glob("run-*")]


@pytest.mark.train
def test_mlflow_continues_its_run(base: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    folder = killed_and_resumed(base, tmp_path, "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert (run.info.run_name, run.info.status) == (RUN, "FINISHED")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {one.step for one in history} == {*range(1, 25)}


@pytest.mark.train
def test_trackio_continues_its_run(base: Path, tmp_path: Path) -> None:
    """In a process of its own, as Trackio reads where it keeps runs when it is imported."""
    pytest.importorskip("trackio")
    script = f"""
        import sys
        sys.path[:] = {sys.path!r}
        from pathlib import Path
        from training.test_watching import killed_and_resumed
        killed_and_resumed(Path({str(base)!r}), Path("."), "trackio")
    """
    environment = {**ENVIRONMENT, "TRACKIO_DIR": str(tmp_path / "runs")}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    subprocess.run(command, cwd=tmp_path, env=environment, timeout=120, check=True)
    with sqlite3.connect(tmp_path / "runs" / "mine.db") as database:
        found = database.execute("select run_name, count(*) from metrics group by run_name").fetchall()
    assert [name for name, _ in found] == [RUN] and found[0][1] >= 24


@pytest.mark.train
def test_a_service_that_is_not_installed_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MODULES", {**MODULES, "wandb": "no_such_module"})
    settings = dataclasses.replace(SETTINGS, watch=WatchSettings(["wandb"], "mine", RUN, str(tmp_path)))
    with pytest.raises(TrainingError, match=r"install the extra selfimprove_dagster\[wandb\]"):
        fine_tune(base, make_examples(), tmp_path / "model", settings, seed=7)
    unknown: Any = WatchSettings(["slack"], "mine", RUN, str(tmp_path))
    with pytest.raises(TrainingError, match="watch names 'slack'"):
        fine_tune(
            base, make_examples(), tmp_path / "model", dataclasses.replace(SETTINGS, watch=unknown), seed=7
        )


def test_what_a_person_has_set_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    with watching._environment({"WANDB_RUN_ID": "a"}, {"WANDB_PROJECT": "ours", "WANDB_DIR": "here"}):
        assert [os.environ[name] for name in ("WANDB_PROJECT", "WANDB_DIR")] == ["theirs", "here"]
    assert "WANDB_DIR" not in os.environ and "WANDB_RUN_ID" not in os.environ
