"""Connect the runs of Dagster with the recorded attempts at iterations."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from functools import partial

import dagster as dg

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.host import is_alive, machine
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.loop.rules import Continue
from selfimprove_dagster.loop.state import inputs_of
from selfimprove_dagster.work.attempts import Attempt, Recorder, attempt_at, begin, save

EXPERIMENT_TAG = "selfimprove/experiment"
ATTEMPT_TAG = "selfimprove/attempt"
"""Tag of a run: the number of the attempt in a row of failures, from 1."""

PROCESS_TAG = "selfimprove/process"
"""Tag of a run of the command line: its process."""

HOST_TAG = "selfimprove/host"
"""Tag of a run of the command line: the host of its process. Earlier versions, which worked on one host, lack it."""


def model_pool() -> str:
    """Return the name of Dagster's pool for the stages on this machine that need the model or the trainer.

    Each machine has a pool of its own. By default it has one place.
    """
    return "model@" + re.sub(r"\s", "_", machine())


_BY_DAGSTER = {"dagster/sensor_name", "dagster/schedule_name"}


def recorder_of(
    context: dg.AssetExecutionContext, lake: Lake, experiment: Experiment, iteration: int
) -> Recorder:
    """Return the recorder of the attempt that a step belongs to."""
    return recorder_of_run(context.instance, context.run, lake, experiment, iteration)


def recorder_of_run(
    instance: dg.DagsterInstance, run: dg.DagsterRun, lake: Lake, experiment: Experiment, iteration: int
) -> Recorder:
    """Return the recorder of the attempt of a run, which this process works on."""
    tags, inputs = run.tags, partial(inputs_of, lake, experiment, iteration)
    by_command = PROCESS_TAG in tags and run.remote_job_origin is None

    def was_stopped() -> bool:
        found = instance.get_run_by_id(run.run_id)
        canceled = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
        return by_command or (found is not None and found.status in canceled)

    number = tags.get(ATTEMPT_TAG, "1")
    attempt = begin(
        lake,
        experiment,
        iteration,
        run_id=run.run_id,
        number=int(number) if number.isdecimal() else 1,
        inputs=inputs(),
        parent=os.getpid() if by_command else os.getppid(),
        by_person=by_command or not tags.keys() & _BY_DAGSTER,
    )
    return Recorder(lake, attempt, inputs, was_stopped)


_IN_PROGRESS = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def note_request(lake: Lake, experiment: str, step: Continue) -> None:
    """Note that Dagster was asked to start an attempt, which begins later."""
    known = attempt_at(lake, experiment, step.iteration, step.method)
    known = known or Attempt(experiment, step.method, step.iteration, status="ended")
    save(lake, replace(known, asked_at=time.time()))


_GRACE_SECONDS = 20.0
"""How long Dagster has to notice by itself that the process of a step was killed."""


def reconcile(instance: dg.DagsterInstance, lake: Lake, experiment: Experiment) -> bool:
    """Bring the latest attempt of an experiment in line with its latest run in Dagster.

    A run that ended, or was cancelled, outside a stage leaves no trace of its own, and Dagster does not notice that
    the process of a run was killed. Returns whether the run is in progress.
    """
    records = instance.get_run_records(dg.RunsFilter(tags={EXPERIMENT_TAG: experiment.name}), limit=10)
    found = next((one for one in records if "dagster/partition" in one.dagster_run.tags), None)
    if found is None:
        return False
    run, tags = found.dagster_run, found.dagster_run.tags
    method, iteration = (
        run.job_name.removesuffix("_iteration"),
        int(tags["dagster/partition"].rpartition("-")[2]),
    )
    if method not in experiment.chain:
        return False
    known = attempt_at(lake, experiment.name, iteration, method)
    own = known if known is not None and known.run_id == run.run_id else None
    if run.status in _IN_PROGRESS:
        if own is None:  # it has not begun
            known = known or Attempt(experiment.name, method, iteration, status="ended")
            save(lake, replace(known, asked_at=time.time()))
            return True
        is_lost = own.status == "running" and not own.is_alive
        if not is_lost or (is_alive(own.parent) and time.time() - own.updated < _GRACE_SECONDS):
            return True
        instance.report_run_failed(run, own.failure or "its process was killed")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        return False
    if own is not None and (own.status != "running" or own.was_killed):
        return False
    if own is None and known is not None and known.since > found.create_timestamp.timestamp():
        return False
    number = tags.get(ATTEMPT_TAG, "1")
    ended = own or Attempt(
        experiment.name, method, iteration, run.run_id, int(number) if number.isdecimal() else 1
    )
    ended = replace(ended, stage="", since=found.create_timestamp.timestamp())
    match run.status:
        case dg.DagsterRunStatus.CANCELED:
            save(lake, replace(ended, status="stopped"))
        case dg.DagsterRunStatus.FAILURE:
            inputs = ended.inputs or inputs_of(lake, experiment, iteration)
            error = "its run in Dagster ended between two stages"
            save(lake, replace(ended, status="failed", error=error, may_pass=True, inputs=inputs))
        case _:
            save(lake, replace(ended, status="ended"))
    return False
