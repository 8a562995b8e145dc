"""What processes record of the iterations that they work on, as other processes read it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kit.small_lake import make_experiment

from selfimprove_dagster.errors import MethodError, ModelError, ModelUnavailable, PartitionBusy, may_pass
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.host import is_alive, process_name
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.work.attempts import (
    Attempt,
    Recorder,
    attempt_at,
    attempts,
    begin,
    folder_of,
    save,
)
from selfimprove_dagster.work.progress import Progress, ProgressReport


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return make_experiment(tmp_path)


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def recorder(lake: Lake, experiment: Experiment, run_id: str = "run", stopped: bool = True) -> Recorder:
    attempt = begin(
        lake,
        experiment,
        0,
        run_id=run_id,
        number=1,
        inputs="b2:before",
        parent=os.getpid(),
        by_person=False,
    )
    return Recorder(lake, attempt, lambda: "b2:after", lambda: stopped)


def test_another_process_reads_stage_progress_and_forecast(lake: Lake, experiment: Experiment) -> None:
    recorded = recorder(lake, experiment)
    with (
        recorded.working("raw_generations", uses_model=True),
        recorded.watching(),
        ProgressReport("lmsi/raw_generations", 4, "paths", lambda line: None) as report,
    ):
        time.sleep(0.01)
        report.advance(3, tokens=30)
        recorded._written = 0.0  # a second ago, as it were
        report.advance(0)
        found = attempt_at(lake, "demo", 0, "lmsi")
        assert found is not None and found.is_alive and found.stage == "raw_generations"
        assert found.progress is not None and found.progress.seconds_left is not None
        assert replace(found.progress, seconds_left=None) == Progress(
            "lmsi/raw_generations", 3, 4, "paths", 30
        )
        assert found.has_model
    found = attempt_at(lake, "demo", 0, "lmsi")
    assert found is not None and (found.stage, found.stages) == ("", ("raw_generations",))
    assert found.status == "running" and not found.has_model


def test_the_end_of_each_stage_is_recorded(lake: Lake, experiment: Experiment) -> None:
    def latest() -> Attempt:
        found = attempt_at(lake, "demo", 0, "lmsi")
        assert found is not None
        return found

    with recorder(lake, experiment).working("promotion", last=True):
        pass
    assert latest().status == "ended"
    with recorder(lake, experiment, "second").working("seed_pool") as stage:
        stage.blocked.append("lmsi/seed_pool: no_empty_text: one is empty")
    assert (latest().status, latest().inputs) == ("blocked", "b2:after")
    for error, passes in ((ModelUnavailable("gone"), True), (ModelError("no weights"), False)):
        with pytest.raises(ModelError), recorder(lake, experiment, str(error)).working("voted"):
            raise error
        assert (latest().status, latest().may_pass) == ("failed", passes)
        assert latest().failure == f"voted: {error}"
    for by_person, status in ((True, "stopped"), (False, "ended")):
        working = recorder(lake, experiment, status, by_person).working("voted")
        with pytest.raises(KeyboardInterrupt), working:
            raise KeyboardInterrupt
        assert latest().status == status


def test_a_killed_process_is_found_by_its_death(
    lake: Lake, experiment: Experiment, other_process: subprocess.Popen[bytes]
) -> None:
    mine = recorder(lake, experiment).attempt
    name = process_name(other_process.pid)
    theirs = save(lake, replace(mine, process=name, parent=name, stage="raw_generations"))
    assert theirs.is_alive and not theirs.was_killed
    with pytest.raises(PartitionBusy, match=f"being run by another process, {other_process.pid}"):
        recorder(lake, experiment, "another run")
    other_process.send_signal(signal.SIGKILL)
    while is_alive(name):  # a zombie is dead
        time.sleep(0.01)
    assert not theirs.is_alive and theirs.was_killed
    assert f"its process ({other_process.pid}) was killed" in theirs.failure
    assert recorder(lake, experiment, "another run").attempt.run_id == "another run"


def test_an_attempt_between_two_stages_lives_as_long_as_what_starts_them(
    lake: Lake, experiment: Experiment
) -> None:
    attempt = recorder(lake, experiment).attempt
    assert replace(attempt, process="1@0.00").is_alive
    assert not replace(attempt, process="1@0.00", parent="1@0.00").is_alive
    assert not replace(attempt, process="1@0.00", parent="1@0.00").was_killed
    assert replace(attempt, process="1@0.00", host="elsewhere", stage="voted").is_alive


def test_files_that_are_not_whole_are_as_good_as_missing(lake: Lake, experiment: Experiment) -> None:
    recorder(lake, experiment)
    (file,) = folder_of(lake, "demo").glob("*.json")
    whole = file.read_text()
    for text in ("", whole[: len(whole) // 2], "[]", "{}", whole.replace('"stages"', '"scenes"')):
        file.write_text(text)
        assert attempts(lake) == []
    file.write_text(whole)
    assert len(attempts(lake)) == len(attempts(lake, "demo")) == 1 and attempts(lake, "other") == []


def test_a_disk_that_cannot_be_written_does_not_end_the_work(lake: Lake, experiment: Experiment) -> None:
    lake.root.mkdir(parents=True)
    (lake.root / ".runs").write_text("a file where the folder should be")
    with recorder(lake, experiment).working("seed_pool"):
        pass
    assert attempts(lake) == []


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ModelUnavailable("the server failed 8 times"), True),
        (ModelError("no config.json"), False),
        (MethodError("no such method"), False),
        (ConnectionResetError(), True),
        (MemoryError(), True),
        (ValueError("a mistake"), False),
        (FileNotFoundError("x"), False),
    ],
)
def test_the_class_of_an_error_says_whether_it_may_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


def test_torch_running_out_of_memory_may_pass() -> None:
    torch = pytest.importorskip("torch")
    assert may_pass(torch.OutOfMemoryError("CUDA out of memory"))
