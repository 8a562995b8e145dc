"""Record what works on each iteration, how far it is, and how its latest attempt ended.

    <lake>/.runs/<experiment>/<iteration>-<method>.json    the latest attempt
    <lake>/.runs/<experiment>/end.json                     the last end of the loop that was reported

Any process can read the files. Only the process that works on an iteration writes the file of its attempt, about once
a second. An attempt whose process was killed is found by the process, which is no longer alive. The files may be
deleted at any time: then nothing is known of attempts, and the next one is the first.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from selfimprove_dagster.errors import PartitionBusy, may_pass
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.host import delete_left, described, is_alive, process_name, temporary_path, this_host
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.text import plain
from selfimprove_dagster.work.progress import Progress, watched

Status = Literal["running", "failed", "blocked", "stopped", "ended"]

_SECONDS_BETWEEN_LOOKS = 30.0
_SECONDS_BETWEEN_WRITES = 1.0
_LONGEST_ERROR = 2_000


@dataclass(frozen=True)
class Attempt:
    """The latest attempt at an iteration of a method, the `number`-th in a row that was needed.

    `stage` is the stage that works, and `uses_model` whether it needs the model or the trainer; it is empty between two
    stages. `stages` are those that this attempt finished.
    `since` and `updated` are times in seconds. `process` is the one that works, and `parent` the one that starts
    further stages. `waits` is whether the attempt is known to wait for the model. `error` and `may_pass` describe the
    failure. `inputs` is a hash of what the attempt started from. `by_person` is whether somebody started it by hand.
    `asked_at` is when the sensor last asked Dagster for another attempt, 0 once that began.
    """

    experiment: str
    method: str
    iteration: int
    run_id: str = ""
    number: int = 1
    status: Status = "running"
    stage: str = ""
    uses_model: bool = False
    stages: tuple[str, ...] = ()
    since: float = 0.0
    updated: float = 0.0
    stage_since: float = 0.0
    host: str = ""
    process: str = ""
    parent: str = ""
    waits: bool = False
    progress: Progress | None = None
    error: str = ""
    may_pass: bool = False
    inputs: str = ""
    by_person: bool = False
    asked_at: float = 0.0

    @property
    def is_alive(self) -> bool:
        """Return whether its process works, or starts the next stage. A process of another host counts as alive."""
        if self.status != "running":
            return False
        if self.host != this_host():
            return True
        return is_alive(self.process) or (not self.stage and is_alive(self.parent))

    def is_of(self, pid: int) -> bool:
        """Return whether a live process of this host is the one that works."""
        return self.host == this_host() and self.process == process_name(pid)

    @property
    def was_killed(self) -> bool:
        """Return whether its process died in the middle of a stage."""
        return self.status == "running" and bool(self.stage) and not self.is_alive

    @property
    def turn(self) -> str:
        """Return a description for people."""
        return f"iteration {self.iteration} of {self.experiment}"

    @property
    def worker(self) -> str:
        """Return a description of the process that works, with its host if that is another one."""
        return described(self.process, self.host)

    @property
    def has_model(self) -> bool:
        """Return whether it works with the model at present."""
        return self.uses_model and bool(self.stage) and self.is_alive

    @property
    def failure(self) -> str:
        """Return the last error, including that of a process that was killed."""
        if self.was_killed:
            pid = self.process.split("@")[0]
            return f"{self.stage}: its process ({pid}) was killed, e.g. since memory ran out; finished shards are kept"
        return self.error


def folder_of(lake: Lake, experiment: str) -> Path:
    """Return the folder with the attempts of an experiment."""
    return lake.root / ".runs" / experiment


def _file(lake: Lake, experiment: str, iteration: int, method: str) -> Path:
    return folder_of(lake, experiment) / f"{iteration:03d}-{method}.json"


def attempts(lake: Lake, experiment: str = "*") -> list[Attempt]:
    """Return the latest attempt at each iteration of an experiment, or of all; files that are not whole are skipped."""
    found = [_load(path) for path in sorted((lake.root / ".runs").glob(f"{experiment}/*-*.json"))]
    return [one for one in found if one is not None]


def attempt_at(lake: Lake, experiment: str, iteration: int, method: str) -> Attempt | None:
    """Return the latest attempt at an iteration; None if nothing is known of one."""
    return _load(_file(lake, experiment, iteration, method))


def _load(path: Path) -> Attempt | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        progress = Progress(**data.pop("progress")) if data.get("progress") else None
        return Attempt(**{**data, "stages": tuple(data["stages"]), "progress": progress})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def save(lake: Lake, attempt: Attempt) -> Attempt:
    """Write an attempt, as of now. Nothing is raised where that fails: the work itself matters more."""
    attempt = replace(attempt, updated=time.time())
    path = _file(lake, attempt.experiment, attempt.iteration, attempt.method)
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(attempt), indent=1), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
    return attempt


def begin(
    lake: Lake,
    experiment: Experiment,
    iteration: int,
    *,
    run_id: str,
    number: int,
    inputs: str,
    parent: int,
    by_person: bool,
) -> Attempt:
    """Return the attempt of a run, as it goes on or newly begun; `parent` is the pid that starts its stages.

    Raises PartitionBusy if another process works on the iteration.
    """
    known = attempt_at(lake, experiment.name, iteration, experiment.method)
    file = _file(lake, experiment.name, iteration, experiment.method)
    if known is not None and known.run_id != run_id and known.is_alive and not known.is_of(os.getpid()):
        raise PartitionBusy(
            f"{known.turn} is being run by {known.worker}; wait until it ends, or stop it, then run again"
            + ("" if known.host == this_host() else f". If that host is gone, delete {file}")
        )
    delete_left(file)
    now = time.time()
    host, process = this_host(), process_name(os.getpid())
    if known is not None and known.run_id == run_id:
        return save(lake, replace(known, host=host, process=process, inputs=inputs))
    fresh = Attempt(experiment.name, experiment.method, iteration, run_id, number, since=now)
    fresh = replace(fresh, host=host, process=process, parent=process_name(parent))
    return save(lake, replace(fresh, inputs=inputs, by_person=by_person))


@dataclass
class Recorder:
    """Writes the attempt of this process: its stage, its progress, and how it ends.

    `inputs` gives the hash of what the attempt starts from. `was_stopped` says of an interrupt whether a person meant
    this attempt, and not the program that runs it.
    """

    lake: Lake
    attempt: Attempt
    inputs: Callable[[], str]
    was_stopped: Callable[[], bool]
    blocked: list[str] = field(default_factory=list)
    observe: Callable[[Progress], None] | None = None
    """Takes the progress of work that has figures, such as a training's loss, about every half a minute."""
    _written: float = 0.0
    _observed: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, **changes: Any) -> None:
        """Write the attempt with some fields changed."""
        with self._lock:
            self.attempt = save(self.lake, replace(self.attempt, **changes))
            self._written = time.monotonic()

    def progressed(self, progress: Progress) -> None:
        """Take the progress of the stage, about once a second."""
        now, is_done = time.monotonic(), progress.done >= progress.total
        if now - self._written >= _SECONDS_BETWEEN_WRITES or is_done:
            self.write(progress=progress)
        if self.observe and progress.figures and (now - self._observed >= _SECONDS_BETWEEN_LOOKS or is_done):
            self._observed = now
            self.observe(progress)

    @contextmanager
    def working(self, stage: str, *, uses_model: bool = False, last: bool = False) -> Iterator[Recorder]:
        """Record that a stage works, and how that ended; `last` is whether the iteration ends with it.

        An error is recorded and raised again. Set `blocked` to what closed the gate.
        """
        before = self.attempt
        now = {"status": "running", "stage": stage, "stage_since": time.time(), "uses_model": uses_model}
        self.write(**now, progress=None, waits=False)
        try:
            yield self
        except GeneratorExit:
            self.write(stage="")
            raise
        except Exception as error:
            reason = plain(str(error) or type(error).__name__, _LONGEST_ERROR)
            self._end("failed", error=f"{stage}: {reason}", may_pass=may_pass(error))
            raise
        except BaseException:  # an interrupt
            self._end("stopped" if self.was_stopped() else "ended")
            raise
        if self.blocked:
            self._end("blocked", error="; ".join(self.blocked), may_pass=False)
        elif before.status in (
            "failed",
            "blocked",
        ):  # in another stage of the run, which this one does not need
            self._end(before.status)
        else:
            known = attempt_at(self.lake, before.experiment, before.iteration, before.method) or before
            self.write(
                stage="",
                stages=tuple(dict.fromkeys((*known.stages, stage))),
                status="ended" if last else "running",
                progress=None,
            )

    def _end(self, status: Status, **how: Any) -> None:
        self.write(stage="", status=status, inputs=self.inputs(), **how)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take what every report of progress inside says."""
        with watched(self.progressed):
            yield
