"""Connect the runs of Dagster with the recorded attempts at iterations."""

from __future__ import annotations

import os
from functools import partial

import dagster as dg

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.loop.state import inputs_of
from selfimprove_dagster.work.attempts import Recorder, begin

EXPERIMENT_TAG = "selfimprove/experiment"
ATTEMPT_TAG = "selfimprove/attempt"
"""Tag of a run: the number of the attempt in a row of failures, from 1."""

PROCESS_TAG = "selfimprove/process"
"""Tag of a run of the command line: its process."""

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
