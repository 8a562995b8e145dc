"""Define the sensors that start the next iteration and import seeds from the inbox."""

# No `from __future__ import annotations`: Dagster reads parameter types and refuses their names.

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from selfimprove_dagster.assets.partitions import bring_up_to_date, iterations
from selfimprove_dagster.assets.recording import ATTEMPT_TAG, EXPERIMENT_TAG, note_request, reconcile
from selfimprove_dagster.assets.seeds import IMPORTED_FOLDER, SeedImport, import_seeds_job
from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.loop.ending import report_end
from selfimprove_dagster.loop.rules import Continue, Stop
from selfimprove_dagster.loop.state import State, state_of

_SETTLED_SECONDS = 2.0


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
        "of an experiment once its seeds are imported, and repeats attempts that failed for a passing reason. `loop: "
        "false` in the experiment's file turns it off.",
    )
    def next_iteration(context: dg.SensorEvaluationContext, home: dg.ResourceParam[Home]) -> dg.SensorResult:
        bring_up_to_date(context.instance, home.lake)
        requests, keys, remarks = [], [], []
        for chain, problem in _experiments(home):
            if not chain:
                remarks.append(problem)
                continue
            experiment = chain[0]
            if not experiment.loop:
                remarks.append(f"{experiment.name}: its file says `loop: false`")
                continue
            in_progress = reconcile(context.instance, home.lake, experiment)
            state = state_of(home.lake, chain)
            if not in_progress:
                remarks += report_end(home.lake, chain, state)
            step = state.step
            if in_progress or not state.may_run() or isinstance(step, Stop):
                remarks.append(f"{experiment.name}: {state.in_words}")
                continue
            key = experiment.partition_key(step.iteration)
            keys.append(iterations(step.method).build_add_request([key]))
            requests.append(
                dg.RunRequest(
                    run_key=_run_key(state, step, experiment),
                    job_name=f"{step.method}_iteration",
                    partition_key=key,
                    tags={EXPERIMENT_TAG: experiment.name, ATTEMPT_TAG: str(state.number)},
                )
            )
            note_request(home.lake, experiment.name, step)
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
                tags={EXPERIMENT_TAG: name},
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


def _experiments(home: Home) -> Iterator[tuple[list[Experiment], str]]:
    """Yield the settings of each experiment, method by method, or the error in its file."""
    for name in home.experiment_names():
        try:
            yield home.chain(name), ""
        except SelfImproveError as error:
            yield [], f"{name}: {error}"


def _run_key(state: State, step: Continue, experiment: Experiment) -> str:
    """Return the key of a request; Dagster starts no second run for it.

    It changes with whatever makes another attempt worthwhile: the decision that the iteration follows, what it starts
    from, the budget, and the attempt before.
    """
    budget, last = experiment.budget, state.attempt
    parts = (
        *(experiment.partition_key(step.iteration), step.method, step.after),
        *(budget.tokens, budget.model_seconds, state.inputs, state.number),
        *((last.run_id, last.status) if last else ()),
    )
    return ":".join(map(str, parts))
