"""Train in several processes: `launch` runs a job with torchrun or Ray Train and hears what its rank 0 reports.

<output>.launch/<id>/        while the processes run, and after a failure; on a file system that all nodes share
    job.json                 the job, and what this process listens to
    messages                 what rank 0 reports, in the protocol of Dagster Pipes
    launcher.log             the output of torchrun, or of the process that joins Ray
    rank-N.log               the output of rank N
    failure-N.json           the exception that ended rank N

The processes end with the one that launched them, however that ends (see `language_model.guard`), and each of them
with its launcher. If one fails, the launcher ends the others; training resumes from the last checkpoint when
it is run again.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shlex
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

from selfimprove_dagster import errors
from selfimprove_dagster.errors import RankKilled, TrainingError
from selfimprove_dagster.language_model import guard
from selfimprove_dagster.language_model.serving import last_lines
from selfimprove_dagster.training import folders
from selfimprove_dagster.training.settings import Launch, TrainingOutcome
from selfimprove_dagster.work.spec import Spec

JOB = "job.json"

ON_EVERY_NODE = "SELFIMPROVE_ON_EVERY_NODE"
"""Variable with the command that runs what follows it once on every node, such as `srun --ntasks-per-node=1`."""

ENDPOINT = "SELFIMPROVE_ENDPOINT"
"""Variable with the `host:port` of the node at which the processes of several nodes find each other."""

Hear = Callable[[Any], None]

Channel = Callable[[Path, Hear], AbstractContextManager[Mapping[str, str]]]
"""Reads the messages in a file while it is open; yields the variables with which rank 0 finds the file."""

_PAUSE = 0.1
"""Seconds between two looks at the processes."""


def strategy_arguments(how: Launch | None, on_cpu: bool) -> dict[str, Any]:
    """Return the trainer's arguments for the processes that train together.

    FSDP2's start from the configuration that comes with TRL. Raises TrainingError for FSDP2 on the CPU, where the
    trainer would ignore it.
    """
    if how is None or how.total == 1:
        return {}
    if how.strategy == "ddp":
        # Parameters then keep their buckets. They would change after the first step, and with them the order in which
        # three ranks and more add up: a run that resumes would differ in its last bits.
        return {"ddp_find_unused_parameters": True}
    if on_cpu:
        raise TrainingError("launch.strategy is fsdp2, which needs GPUs. Use ddp on the CPU.")
    return {"fsdp": True, "fsdp_config": fsdp2_configuration()["fsdp_config"]}


def fsdp2_configuration() -> dict[str, Any]:
    """Return TRL's configuration of accelerate for FSDP2."""
    import yaml

    text = files("trl").joinpath("accelerate_configs", "fsdp2.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@contextmanager
def by_file(file: Path, hear: Hear) -> Iterator[Mapping[str, str]]:
    """Read the messages of Dagster Pipes without Dagster; `hear` is called with each custom message, in a thread."""
    import dagster_pipes as pipes

    file.touch()
    ended = threading.Event()

    def read() -> None:
        left = ""
        with file.open(encoding="utf-8") as stream:
            while True:
                was_last = ended.is_set()
                *lines, left = (left + stream.read()).split("\n")
                for message in map(json.loads, lines):
                    if message["method"] == "report_custom_message":
                        hear(message["params"]["payload"])
                if was_last:
                    return
                ended.wait(_PAUSE)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    about = dict.fromkeys(get_type_hints(pipes.PipesContextData))
    try:
        yield {
            pipes.DAGSTER_PIPES_CONTEXT_ENV_VAR: pipes.encode_param(
                {pipes.PipesDefaultContextLoader.DIRECT_KEY: {**about, "extras": {}}}
            ),
            pipes.DAGSTER_PIPES_MESSAGES_ENV_VAR: pipes.encode_param(
                {pipes.PipesDefaultMessageWriter.FILE_PATH_KEY: str(file)}
            ),
        }
    finally:
        ended.set()
        reader.join()


def launch(job: Spec, *, channel: Channel = by_file, **listeners: Callable[..., None] | None) -> Any:
    """Return the outcome of a training job, of `training.jobs`, which the processes that its settings ask for run.

    `listeners` are arguments of the job, such as `on_log`, which are called here. Any of them may raise to stop the
    training; on_paid can then be a step late. Raises what ended the first process that failed: an error of this library
    as itself, RankKilled for a signal, and else TrainingError, with the end of its log.
    """
    how = Launch(**job.arguments["settings"]["launch"])
    output = Path(job.arguments["output"])
    listening = {name: listener for name, listener in listeners.items() if listener is not None}
    place = output.with_name(f"{output.name}.launch")
    heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    outcome: dict[str, Any] = {}

    def attend(limit: float) -> None:
        """Handle the messages that come within `limit` seconds."""
        while True:
            try:
                ((name, value),) = heard.get(timeout=limit).items()
            except queue.Empty:
                return
            if name in listening:
                listening[name](value)
            else:
                outcome.update(value)

    with folders.locked(place):
        for earlier in place.iterdir():
            shutil.rmtree(earlier)
        folder = place / uuid.uuid4().hex
        folder.mkdir()
        folders.write_json(folder / JOB, {"job": job.to_json(), "listeners": [*listening]})
        with channel(folder / "messages", heard.put) as variables:
            threads = max(1, (os.cpu_count() or 1) // how.processes)
            environment = {
                "OMP_NUM_THREADS": str(threads),
                **os.environ,
                **variables,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            }
            process = guard.started(command(how, folder), folder / "launcher.log", environment)
            try:
                while process.poll() is None:
                    attend(_PAUSE)
            finally:
                process.terminate()
                code = process.wait(guard.GRACE + 30)
        attend(0)
        if code or not outcome:
            raise _failure(folder, how, code)
        shutil.rmtree(place)
    kind: type[TrainingOutcome] = get_type_hints(job.resolve())["return"]
    left_out = [(index, problem) for index, problem in outcome["left_out"]]
    return kind(**{**outcome, "path": Path(outcome["path"]), "left_out": left_out})


def reported(outcome: TrainingOutcome) -> dict[str, Any]:
    """Return an outcome as the message that `launch` converts back."""
    return {"outcome": {**asdict(outcome), "path": str(outcome.path)}}


def nodes_problem(nodes: int) -> str:
    """Return what the environment lacks to start processes on several nodes; empty if nothing."""
    missing = [name for name in (ON_EVERY_NODE, ENDPOINT) if not os.environ.get(name)]
    if nodes == 1 or not missing:
        return ""
    return (
        f"launch.nodes is {nodes}, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set. "
        f"{ON_EVERY_NODE} is the command that runs what follows it once on every node (srun --nodes={nodes} "
        f"--ntasks-per-node=1), {ENDPOINT} the host:port of one of them where all meet"
    )


def command(how: Launch, folder: Path) -> list[str]:
    """Return the command that starts the processes: torchrun, on every node where there are several, or Ray Train.

    Raises TrainingError where Ray is not installed, or where the environment does not say how to start several nodes.
    """
    meeting, before = ["--standalone"], []
    if how.by == "ray":
        if find_spec("ray") is None:
            raise TrainingError(
                "launch.by is ray, and Ray is not installed: pip install 'selfimprove_dagster[ray]'"
            )
        return [sys.executable, "-m", "selfimprove_dagster.training.ray_launch", str(folder)]
    if problem := nodes_problem(how.nodes):
        raise TrainingError(f"{problem}.")
    if how.nodes > 1:
        before = shlex.split(os.environ[ON_EVERY_NODE])
        meeting = [
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={os.environ[ENDPOINT]}",
            f"--rdzv-id={folder.name}",
        ]
    return [
        *before,
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nnodes={how.nodes}",
        f"--nproc-per-node={how.processes}",
        *meeting,
        "--max-restarts=0",
        "-m",
        "selfimprove_dagster.training.rank",
        str(folder),
    ]


def _failure(folder: Path, how: Launch, code: int) -> errors.SelfImproveError:
    """Return the error for ranks that did not end well; `code` is the launcher's."""
    told = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("failure-*.json")]
    for failure in sorted(told, key=lambda failure: float(failure["at"])):
        kind = getattr(errors, failure["kind"], None)
        if isinstance(kind, type) and issubclass(kind, errors.SelfImproveError):
            return kind(failure["message"])
    log = folder / "launcher.log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    ended = [(int(rank), int(exit)) for rank, exit in _ENDED.findall(text)]
    # One that was killed comes first: the others then fail since it is gone, or torchrun ends them.
    order = {-signal.SIGTERM: 2}
    for rank, exit in sorted(ended, key=lambda one: order.get(one[1], int(one[1] > 0))):
        own = folder / f"rank-{rank}.log"
        name = f"rank {rank} of {how.total} processes"
        if exit < 0:
            why = signal.Signals(-exit).name
            return RankKilled(f"{name} was ended by {why}; training can be resumed{_end_of(own)}")
        return TrainingError(f"{name} ended with code {exit}{_end_of(own)}")
    return TrainingError(
        f"{how.by} ended with code {code} and {how.total} processes made no model{_end_of(log)}"
    )


_ENDED = re.compile(r"rank +: (\d+) \(.*\n +exitcode +: (-?\d+)")
"""The rank and the exit code of a failed process in torchrun's output."""


def _end_of(log: Path) -> str:
    return "\n".join([f". The end of its log {log}:", *last_lines(log)])
