"""Define the sensors that start the next iteration and import seeds from the inbox."""

# No `from __future__ import annotations`: Dagster reads parameter types and refuses their names.

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from selfimprove_dagster.assets.partitions import bring_up_to_date, iterations
from selfimprove_dagster.assets.seeds import IMPORTED_FOLDER, SeedImport, import_seeds_job
from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.loop.rules import Stop, decide_next

_SETTLED_SECONDS = 2.0


_RUNNING = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def next_iteration_sensor(jobs: Sequence[Any]) -> dg.SensorDefinition:
    """Return the sensor that checks what runs next in every experiment and requests runs of
    `<method>_iteration`.

    It handles the experiments whose `loop` is true. A tick cannot have both run requests and a skip reason,
    so the reason of every experiment is written to the tick's log.
    """

    @dg.sensor(
        name="next_iteration",
        jobs=jobs,
        minimum_interval_seconds=15,
        description="Acts after a promotion decision, or after the previous method of a chain. Adds the next "
        "iteration's partition and requests its run, or reports why the loop stops. Starts the first iteration "
        "of an experiment once its seeds are imported. `loop: false` in the experiment's file turns it off.",
    )
    def next_iteration(context: dg.SensorEvaluationContext, home: dg.ResourceParam[Home]) -> dg.SensorResult:
        bring_up_to_date(context.instance, home.lake)
        requests, keys, remarks = [], [], []
        for experiment, problem in _experiments(home):
            if experiment is None:
                remarks.append(problem)
                continue
            step = decide_next(home.lake, experiment)
            if not experiment.loop or isinstance(step, Stop):
                reason = step.in_words if experiment.loop else "its file says `loop: false`"
                remarks.append(f"{experiment.name}: {reason}")
                continue
            key = experiment.partition_key(step.iteration)
            if _is_running(context.instance, key):
                remarks.append(f"{experiment.name}: iteration {step.iteration} is running")
                continue
            budget = experiment.budget
            keys.append(iterations(step.method).build_add_request([key]))
            requests.append(
                dg.RunRequest(
                    # After the budget is raised, an iteration that spent it resumes.
                    run_key=f"{key}:{step.method}:{step.after}:{budget.tokens}:{budget.model_seconds}",
                    job_name=f"{step.method}_iteration",
                    partition_key=key,
                    tags={"selfimprove/experiment": experiment.name},
                )
            )
        for remark in remarks:
            context.log.info(remark)
        if not requests:
            return dg.SensorResult(skip_reason="; ".join(remarks) or "there are no experiments")
        return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=keys)

    return next_iteration


@dg.sensor(
    name="seed_inbox",
    job=import_seeds_job,
    minimum_interval_seconds=10,
    description="Imports seed files from the inbox folder of each experiment.",
)
def seed_inbox(home: dg.ResourceParam[Home]) -> Iterator[dg.RunRequest | dg.SkipReason]:
    found = False
    for name in home.experiment_names():
        for path in _settled_files(home.inbox(name)):
            found = True
            config = SeedImport(experiment=name, file=str(path), move_when_done=True)
            yield dg.RunRequest(
                run_key=f"{name}:{path.name}:{file_checksum(path)}",
                run_config=dg.RunConfig(ops={"import_seed_file": config}),
                tags={"selfimprove/experiment": name},
            )
    if not found:
        yield dg.SkipReason(f"no new files in {home.root / 'inbox'}/<experiment>/")


def _settled_files(inbox: Path) -> list[Path]:
    """Return files that did not change recently, so that none is read while it is being copied."""
    now = time.time()
    return [
        path
        for path in sorted(inbox.glob("*"))
        if path.is_file()
        and path.parent.name != IMPORTED_FOLDER
        and not path.name.startswith(".")
        and now - path.stat().st_mtime >= _SETTLED_SECONDS
    ]


def _experiments(home: Home) -> Iterator[tuple[Experiment | None, str]]:
    """Yield the first method's settings of each experiment, or the error in its file."""
    for name in home.experiment_names():
        try:
            yield home.experiment(name), ""
        except SelfImproveError as error:
            yield None, f"{name}: {error}"


def _is_running(instance: dg.DagsterInstance, partition_key: str) -> bool:
    running = dg.RunsFilter(tags={"dagster/partition": partition_key}, statuses=_RUNNING)
    return instance.get_runs_count(running) > 0
