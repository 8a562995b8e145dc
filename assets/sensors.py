"""Sensors: the next iteration after a promotion decision, and seeds dropped into an inbox."""

# No `from __future__ import annotations`: Dagster reads parameter types and refuses their names.

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from selfimprove_dagster.assets.partitions import iterations
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


def next_iteration_sensor(method: str) -> dg.SensorDefinition:
    """A sensor that asks, for every experiment with the method, whether it is its turn.

    It requests runs of the job `<method>_iteration`.
    """

    @dg.sensor(
        name=f"next_{method}_iteration",
        job_name=f"{method}_iteration",
        minimum_interval_seconds=15,
        description="After a promotion decision, or the turn of the method before: adds the next "
        "iteration's partition and requests its run, or says why the loop stops. Starts the first iteration "
        "of an experiment once seeds were imported for it.",
    )
    def next_iteration(context: dg.SensorEvaluationContext, home: dg.ResourceParam[Home]) -> dg.SensorResult:
        requests, keys, remarks = [], [], []
        for experiment, problem in _experiments(home, method):
            if experiment is None:
                remarks += [problem] if problem else []
                continue
            step = decide_next(home.lake, experiment)
            if isinstance(step, Stop) or step.method != method:
                remarks.append(f"{experiment.name}: {step.in_words}")
                continue
            key = experiment.partition_key(step.iteration)
            if _is_running(context.instance, key):
                remarks.append(f"{experiment.name}: iteration {step.iteration} is running")
                continue
            keys.append(key)
            requests.append(
                dg.RunRequest(
                    # With a budget that was raised, an iteration that spent it goes on.
                    run_key=f"{key}:{method}:{step.after}:{experiment.budget.tokens}:{experiment.budget.model_seconds}",
                    partition_key=key,
                    tags={"selfimprove/experiment": experiment.name},
                )
            )
        if not requests:
            return dg.SensorResult(skip_reason="; ".join(remarks) or "there is no experiment")
        return dg.SensorResult(
            run_requests=requests, dynamic_partitions_requests=[iterations.build_add_request(keys)]
        )

    return next_iteration


@dg.sensor(
    name="seed_inbox",
    job=import_seeds_job,
    minimum_interval_seconds=10,
    description="Turns files dropped into the inbox folder of an experiment into seeds.",
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
        yield dg.SkipReason(f"nothing new under {home.root / 'inbox'}/<experiment>/")


def _settled_files(inbox: Path) -> list[Path]:
    """Files that nobody wrote to for a moment, so that none is read while it is still being copied."""
    now = time.time()
    return [
        path
        for path in sorted(inbox.glob("*"))
        if path.is_file()
        and path.parent.name != IMPORTED_FOLDER
        and not path.name.startswith(".")
        and now - path.stat().st_mtime >= _SETTLED_SECONDS
    ]


def _experiments(home: Home, method: str) -> Iterator[tuple[Experiment | None, str]]:
    """Each experiment with this method, or what is wrong with a file: one must not halt the others."""
    for name in home.experiment_names():
        try:
            yield next((one for one in home.chain(name) if one.method == method), None), ""
        except SelfImproveError as error:
            yield None, f"{name}: {error}"


def _is_running(instance: dg.DagsterInstance, partition_key: str) -> bool:
    running = dg.RunsFilter(tags={"dagster/partition": partition_key}, statuses=_RUNNING)
    return instance.get_runs_count(running) > 0
