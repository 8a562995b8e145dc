"""Run an iteration from outside Dagster's UI, such that the UI shows it."""

from __future__ import annotations

import glob
import logging
import os
import shutil
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.plan.active import ActiveExecution

from selfimprove_dagster.assets.recording import (
    ATTEMPT_TAG,
    EXPERIMENT_TAG,
    HOST_TAG,
    PROCESS_TAG,
    model_pool,
    recorder_of_run,
)
from selfimprove_dagster.errors import BudgetSpent, PartitionBusy, SelfImproveError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.host import described, is_alive, own_name, process_name, this_host, was_left
from selfimprove_dagster.loop.state import held_by, holder_of_model
from selfimprove_dagster.text import plain
from selfimprove_dagster.work.attempts import (
    Attempt,
    Recorder,
    Status,
    attempt_at,
    save,
)
from selfimprove_dagster.work.progress import duration

_WAIT_SECONDS = 0.5
_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_BETWEEN_LOOKS = 5.0
_BEGUN = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


_INSTANCE_SETTINGS = """\
nux:
  enabled: false
telemetry:
  enabled: false
run_coordinator:
  module: dagster._core.run_coordinator
  class: QueuedRunCoordinator
concurrency:
  pools:
    default_limit: 1
run_monitoring:
  enabled: true
  free_slots_after_run_end_seconds: 60
"""


def prepare_dagster_home(home: Home) -> Path:
    """Create Dagster's storage folder and set DAGSTER_HOME for this process and its children."""
    folder = Path(os.environ.setdefault("DAGSTER_HOME", str(home.dagster)))
    _delete_leftovers(folder)
    if not folder.exists():
        _make_storage(folder)
    settings = folder / "dagster.yaml"
    if not settings.exists():
        settings.write_text(_INSTANCE_SETTINGS)
    return folder


def _make_storage(folder: Path) -> None:
    """Create Dagster's storage in a temporary folder next to `folder`, and rename it to `folder`.

    Dagster never completes the tables of a storage whose creation was killed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}-{own_name()}")
    temporary.mkdir()
    try:
        (temporary / "dagster.yaml").write_text(_INSTANCE_SETTINGS)
        with dg.DagsterInstance.from_config(str(temporary)):
            pass
        with suppress(OSError):  # another process was faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _delete_leftovers(folder: Path) -> None:
    """Delete the temporary folders of `_make_storage` whose process was killed; their names name the process."""
    for found in folder.parent.glob(f".{glob.escape(folder.name)}-*"):
        if was_left(found.name.removeprefix(f".{folder.name}-")):
            shutil.rmtree(found, ignore_errors=True)


def prepare_dagster_ui(home: Home) -> None:
    """Create Dagster's home, and the first partition of every experiment for the UI."""
    from selfimprove_dagster.assets.partitions import add_iterations, bring_up_to_date

    prepare_dagster_home(home)
    with dg.DagsterInstance.get() as instance:
        bring_up_to_date(instance, home.lake)
        for name in home.experiment_names():
            try:
                chain = home.chain(name)
            except SelfImproveError:
                continue  # the sensor and the pages report the error in the file
            for one in chain:
                add_iterations(instance, one.method, [one.partition_key(0)])


def run_iteration(
    home: Home,
    experiment: Experiment,
    iteration: int,
    only: Sequence[str] | None = None,
    *,
    number: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Materialise one iteration, or `only` some of its tables, in this process. Return the problems; empty if it
    succeeded.

    `number` is the number of the attempt in a row of failures. `say` takes a line when the iteration waits for the
    model, and another when it has it.

    Raises BudgetSpent if a budget stopped it, KeyboardInterrupt if a person did, and PartitionBusy if another process
    is running it. The run is recorded in Dagster's instance, so the UI shows it like any other run. Warnings of checks
    that do not block are shown there and are not returned as problems.
    """
    # Dagster's beta warnings are for developers of this project, not for users of its command line.
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    from selfimprove_dagster.assets.partitions import add_iterations, bring_up_to_date
    from selfimprove_dagster.definitions import defs

    folder = prepare_dagster_home(home)
    logging.getLogger("dagster").setLevel(logging.ERROR)
    key = experiment.partition_key(iteration)
    with dg.DagsterInstance.get() as instance:
        _bury_killed_runs(instance, key)
        bring_up_to_date(instance, home.lake)
        add_iterations(instance, experiment.method, [key])
        job = defs.resolve_job_def(f"{experiment.method}_iteration")
        run_id = str(uuid4())
        instance.all_logs(run_id)  # there are none yet: with events in SQLite, this creates the run's file
        tags = {
            EXPERIMENT_TAG: experiment.name,
            PROCESS_TAG: process_name(os.getpid()),
            HOST_TAG: this_host(),
            ATTEMPT_TAG: str(number),
        }
        run = dg.DagsterRun(job.name, run_id=run_id, tags=tags)
        recorder = recorder_of_run(instance, run, home.lake, experiment, iteration)
        waiting = _Waiting(instance, recorder, say)
        try:
            with _events_kept_open(folder, run_id), waiting.installed():
                outcome = job.execute_in_process(
                    instance=instance,
                    run_id=run_id,
                    partition_key=key,
                    asset_selection=None if only is None else [dg.AssetKey(name.split("/")) for name in only],
                    raise_on_error=False,
                    run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                    tags=tags,
                )
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | DagsterExecutionInterruptedError)
            _close(recorder, "stopped" if interrupted else "failed", str(error))
            raise
        if outcome.success:
            _close(recorder, "ended")
            return []
        if any(_was_interrupted(event) for event in outcome.all_events):
            _close(recorder, "stopped")
            raise KeyboardInterrupt
        _close(recorder, "failed", "the run failed between two stages")
        failures = [event for event in outcome.all_events if event.is_step_failure]
        for event in failures:
            cause = event.step_failure_data.error.cause if event.step_failure_data.error else None
            if cause is not None and cause.cls_name == BudgetSpent.__name__:
                raise BudgetSpent(_description(event))
            if cause is not None and cause.cls_name == DagsterExecutionInterruptedError.__name__:
                raise KeyboardInterrupt
        blocked = _blocked(outcome.all_events)
        problems = [
            one for event in failures for one in blocked.get(event.step_key or "") or [_problem(event)]
        ]
        return problems or ["the run failed"]


@contextmanager
def _events_kept_open(folder: Path, run_id: str) -> Iterator[None]:
    """Hold connections to Dagster's SQLite event files (of the run and the index), if they exist.

    Dagster opens and closes a connection per event, and SQLite removes its write-ahead log whenever the last
    one is closed. This costs several disk flushes per event, i.e. seconds per iteration.
    """
    with ExitStack() as held:
        for name in ("index", run_id):
            file = folder / "history" / "runs" / f"{name}.db"
            if file.is_file():
                connection = held.enter_context(closing(sqlite3.connect(file)))
                connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        yield


def _was_interrupted(event: dg.DagsterEvent) -> bool:
    """Return whether an event says that a signal ended the run."""
    if event.event_type != dg.DagsterEventType.RUN_FAILURE:
        return False
    error = event.job_failure_data.error
    return error is not None and error.cls_name in (
        DagsterExecutionInterruptedError.__name__,
        "KeyboardInterrupt",
    )


def _close(recorder: Recorder, status: Status, error: str = "") -> None:
    """Record how a run ended that no stage could record, since it ended between two of them."""
    mine = recorder.attempt
    known = attempt_at(recorder.lake, mine.experiment, mine.iteration, mine.method)
    if known is not None and known.run_id == mine.run_id and known.status == "running":
        inputs = recorder.inputs()
        save(recorder.lake, replace(known, status=status, stage="", waits=False, error=error, inputs=inputs))


@dataclass
class _Waiting:
    """Waits for the model in place of Dagster, which neither sleeps nor heeds an interrupt while it waits."""

    instance: dg.DagsterInstance
    recorder: Recorder
    say: Callable[[str], None]
    since: float | None = None
    _line_at: float = -inf
    _looked_at: float = -inf

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Be asked whenever a run of this process looks for its next step."""
        find: Callable[[ActiveExecution], Any] = ActiveExecution.get_next_step

        def get_next_step(execution: ActiveExecution) -> Any:
            step = find(execution)
            if step is not None:
                self.end()
                return step
            if execution.check_for_interrupts():
                execution.mark_interrupted()
                raise DagsterExecutionInterruptedError
            self.wait()
            return None

        ActiveExecution.get_next_step = get_next_step  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            ActiveExecution.get_next_step = find  # type: ignore[method-assign, assignment]

    def wait(self) -> None:
        """Wait for a moment, and say for whom: at once, and then every minute."""
        lake, run_id, now = self.recorder.lake, self.recorder.attempt.run_id, time.monotonic()
        if self.since is None:
            self.since = now
            self.recorder.attempt = save(lake, replace(self._known(), waits=True))
        if now - self._looked_at >= _SECONDS_BETWEEN_LOOKS:
            self._looked_at = now
            free_ended_runs(self.instance, but=run_id)
        if now - self._line_at >= _SECONDS_BETWEEN_LINES:
            holder = holder_of_model(lake, self.recorder.attempt)
            if who := held_by(holder) if holder else self._holder_in_dagster(run_id):
                self._line_at = now
                self.say(f"waiting for the model: {plain(who, 400)}; Ctrl-C stops")
        time.sleep(_WAIT_SECONDS)

    def end(self) -> None:
        """Say that the model is free, if it was said that it is not."""
        if self.since is not None and self._line_at >= self.since:
            self.say(f"the model is free after {duration(time.monotonic() - self.since)}")
        self.since, self._line_at = None, -inf

    def _known(self) -> Attempt:
        """Return the attempt as its stages left it."""
        mine = self.recorder.attempt
        found = attempt_at(self.recorder.lake, mine.experiment, mine.iteration, mine.method)
        return found if found is not None and found.run_id == mine.run_id else mine

    def _holder_in_dagster(self, run_id: str) -> str:
        """Name the run that has the place in Dagster's pool; empty if it is free."""
        slots = self.instance.event_log_storage.get_concurrency_info(model_pool()).claimed_slots
        others = [slot for slot in slots if slot.run_id != run_id]
        return f"Dagster's run {others[0].run_id} has it, in the step {others[0].step_key}" if others else ""


def free_ended_runs(instance: dg.DagsterInstance, but: str = "") -> None:
    """Give back the places in the model's pool of runs that ended, which Dagster's daemon does only if it runs."""
    pool = instance.event_log_storage.get_concurrency_info(model_pool())
    holding = {one.run_id for one in pool.claimed_slots} | {one.run_id for one in pool.pending_steps}
    for run_id in holding - {but}:
        run = instance.get_run_by_id(run_id)
        if run is not None and _was_killed(run) and not run.is_finished:
            instance.report_run_failed(run, _KILLED)
            run = None
        if run is None or run.is_finished:
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)


_KILLED = "its process was killed; the next run resumes from there"


def _was_killed(run: dg.DagsterRun) -> bool:
    """Return whether a run of the command line has lost its process, which only a process of its host can know."""
    process = run.tags.get(PROCESS_TAG)
    if run.tags.get(HOST_TAG, this_host()) != this_host():
        return False
    # Re-executing a run in the UI copies its tags, including this one.
    return process is not None and run.remote_job_origin is None and not is_alive(process)


def _bury_killed_runs(instance: dg.DagsterInstance, key: str) -> None:
    """Mark runs whose process was killed as failed: they would be shown as running and occupy the model pool.

    Raises PartitionBusy if a live process is running the partition `key`.
    """
    for run in instance.get_runs(dg.RunsFilter(statuses=_BEGUN)):
        if _was_killed(run):
            instance.report_run_failed(run, _KILLED)
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        elif (
            run.remote_job_origin is None
            and run.tags.get("dagster/partition") == key
            and PROCESS_TAG in run.tags
        ):
            host = run.tags.get(HOST_TAG, this_host())
            lost = "" if host == this_host() else f". If that host is gone, end Dagster's run {run.run_id}"
            raise PartitionBusy(
                f"{key} is being run by {described(run.tags[PROCESS_TAG], host)}; "
                f"wait until it ends, or stop it, then run again{lost}"
            )


def _blocked(events: Sequence[dg.DagsterEvent]) -> dict[str, list[str]]:
    """Return the blocking checks that failed, by step: the table, the check and its reason."""
    found: dict[str, list[str]] = {}
    for event in events:
        if event.event_type != dg.DagsterEventType.ASSET_CHECK_EVALUATION or event.step_key is None:
            continue
        check = event.asset_check_evaluation_data
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            table = "/".join(check.asset_key.path)
            found.setdefault(event.step_key, []).append(
                f"{table}: the check {check.check_name} failed: {check.description}"
            )
    return found


def _problem(event: dg.DagsterEvent) -> str:
    if described := _description(event):
        return f"{event.step_key}: {described}"
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return f"{event.step_key}: {error.message.strip() if error else 'failed'}"


def _description(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data.user_failure_data
    return (data.description if data else None) or ""
