"""Run an iteration from outside Dagster's UI, such that the UI shows it."""

from __future__ import annotations

import glob
import logging
import os
import re
import shutil
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import dagster as dg
import psutil

from selfimprove_dagster.errors import BudgetSpent, PartitionBusy, SelfImproveError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import Home

_PROCESS_TAG = "selfimprove/process"


_TEMPORARY = re.compile(r"(?P<process>\d+@\d+\.\d+)-[0-9a-f]{8}")
"""The end of a temporary folder's name: the process that made it, and a random number."""


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
    temporary = folder.with_name(f".{folder.name}-{_process_name(os.getpid())}-{uuid4().hex[:8]}")
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
        name = _TEMPORARY.fullmatch(found.name.removeprefix(f".{folder.name}-"))
        if name and not _is_alive(name["process"]):
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
    home: Home, experiment: Experiment, iteration: int, only: Sequence[str] | None = None
) -> list[str]:
    """Materialise one iteration, or `only` some of its tables, in this process. Return the problems; empty if it
    succeeded.

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
        with _events_kept_open(folder, run_id):
            outcome = job.execute_in_process(
                instance=instance,
                run_id=run_id,
                partition_key=key,
                asset_selection=None if only is None else [dg.AssetKey(name.split("/")) for name in only],
                raise_on_error=False,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                tags={"selfimprove/experiment": experiment.name, _PROCESS_TAG: _process_name(os.getpid())},
            )
        if outcome.success:
            return []
        failures = [event for event in outcome.all_events if event.is_step_failure]
        for event in failures:
            cause = event.step_failure_data.error.cause if event.step_failure_data.error else None
            if cause is not None and cause.cls_name == BudgetSpent.__name__:
                raise BudgetSpent(_description(event))
            if cause is not None and cause.cls_name == dg.DagsterExecutionInterruptedError.__name__:
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


def _bury_killed_runs(instance: dg.DagsterInstance, key: str) -> None:
    """Mark runs whose process was killed as failed: they would be shown as running and occupy the model pool.

    Raises PartitionBusy if a live process is running the partition `key`.
    """
    begun = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    for run in instance.get_runs(dg.RunsFilter(statuses=begun)):
        process = run.tags.get(_PROCESS_TAG)
        if run.remote_job_origin is not None:
            continue  # launched by Dagster: re-executing a run in the UI copies its tags, including this one
        if process is not None and not _is_alive(process):
            instance.report_run_failed(run, "its process was killed; the next run resumes from there")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        elif process is not None and run.tags.get("dagster/partition") == key:
            raise PartitionBusy(
                f"{key} is being run by another process, {process.split('@')[0]}; "
                "wait until it ends, or stop it, then run again"
            )


def _process_name(pid: int) -> str:
    """Return `<pid>@<start time>` of a live process, unlike any later one with the same pid."""
    try:
        return f"{pid}@{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""


def _is_alive(process: str) -> bool:
    """Return whether the process of this `_process_name` is alive."""
    return process == _process_name(int(process.split("@")[0]))


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
