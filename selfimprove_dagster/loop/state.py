"""Say what an experiment is doing: the one model of its state, for commands, pages, the sensor and hooks.

It is computed from the lake (what is committed, which checks failed) and from the attempts that processes record
there (what works at present, and how the last attempt ended).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from selfimprove_dagster import registry
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.host import this_host
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.loop.rules import Continue, Stop, decide_next, next_turn
from selfimprove_dagster.method import Stage
from selfimprove_dagster.text import plain
from selfimprove_dagster.work.attempts import Attempt, attempt_at, attempts
from selfimprove_dagster.work.progress import duration

Kind = Literal["running", "waiting", "blocked", "failed", "stopped", "ready", "not started", "finished"]

REQUEST_SECONDS = 600.0
"""How long a request of the sensor counts as waiting to be started by Dagster."""

_NO_EFFECT = {"description", "budget", "retries", "on_stop", "loop"}
"""Fields of an experiment that cannot change why an attempt failed. The budget has rules of its own."""


@dataclass(frozen=True)
class Gate:
    """A blocking check that failed: later stages cannot read its table. `reason` ends with the remedy."""

    table: str
    iteration: int
    check: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.check} of {self.table}: {self.reason}"


@dataclass(frozen=True)
class State:
    """What an experiment is doing.

    - `running`: a stage works; `attempt` says which one and how far it is.
    - `waiting`: an attempt waits for the model, which `holder` has, or for Dagster to start it.
    - `blocked`: blocking checks failed (`gates`), and nothing that they depend on has changed since.
    - `failed`: the last attempt failed. It is repeated at `retry_at` (in seconds); with None it is not.
    - `stopped`: a person stopped the last attempt. Only a person starts the next one.
    - `ready`: `step` can run.
    - `not started`, `finished`: `step` says why.

    `reason` is the explanation in words, and `remedy` what to do, if anything. `inputs` is a hash of what the next
    attempt starts from.
    """

    experiment: str
    kind: Kind
    step: Continue | Stop
    reason: str = ""
    remedy: str = ""
    attempt: Attempt | None = None
    holder: Attempt | None = None
    gates: tuple[Gate, ...] = ()
    attempts: int = 1
    retry_at: float | None = None
    inputs: str = ""

    @property
    def has_ended(self) -> bool:
        """Return whether the loop goes on only after somebody changes something."""
        return self.kind in ("blocked", "finished") or (self.kind == "failed" and self.retry_at is None)

    def may_run(self, now: float | None = None) -> bool:
        """Return whether the next attempt should be started by now without a person."""
        if self.kind == "failed":
            return self.retry_at is not None and self.retry_at <= (time.time() if now is None else now)
        return self.kind == "ready"

    @property
    def number(self) -> int:
        """Return the number of the next attempt, counted from 1 in a row of failures."""
        return self.attempt.number + 1 if self.kind == "failed" and self.attempt else 1

    @property
    def in_words(self) -> str:
        """Return one line for people."""
        ready = f"{self.step.in_words}, ready to run"
        return plain(ready if self.kind == "ready" else f"{self.kind}: {self.reason}", 2_000)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for other programs. Fields that do not apply are missing."""
        step, attempt, now = self.step, self.attempt, time.time()
        data: dict[str, Any] = {"experiment": self.experiment, "state": self.kind, "words": self.in_words}
        data |= {"reason": self.reason, "remedy": self.remedy}
        if isinstance(step, Continue):
            data |= {"iteration": step.iteration, "method": step.method}
        if attempt is not None and self.kind in ("running", "waiting", "failed", "stopped"):
            data |= {"iteration": attempt.iteration, "method": attempt.method, "stage": attempt.stage}
            data |= {"attempt": attempt.number, "attempts": self.attempts, "since": attempt.since}
        if attempt is not None and self.kind in ("running", "waiting"):
            data["process"] = attempt.process.split("@")[0]
        if attempt is not None and self.kind == "running" and attempt.progress is not None:
            data |= {name: value for name, value in asdict(attempt.progress).items() if name != "title"}
        if self.kind == "failed" and self.retry_at is not None:
            data["seconds_to_retry"] = round(max(self.retry_at - now, 0.0), 1)
        if self.holder is not None:
            data["holder"] = {
                "experiment": self.holder.experiment,
                "iteration": self.holder.iteration,
                "method": self.holder.method,
                "stage": self.holder.stage,
                "since": self.holder.stage_since,
                "process": self.holder.process.split("@")[0],
            }
        if self.gates:
            data["checks"] = [asdict(gate) for gate in self.gates]
        return {name: value for name, value in data.items() if value != ""}


def state_of(lake: Lake, chain: Sequence[Experiment]) -> State:
    """Return what an experiment is doing, given the settings of each of its methods."""
    first = chain[0]
    known = attempts(lake, first.name)
    if live := [one for one in known if one.is_alive]:
        return _at_work(lake, chain, max(live, key=lambda one: one.since))
    step = decide_next(lake, first)
    if isinstance(step, Stop) and not step.started and _ended_early(lake, first):
        step = next_turn(lake, first)
    latest = max(known, key=lambda one: one.since, default=None)
    if requested := [one for one in known if time.time() - one.asked_at < REQUEST_SECONDS]:
        return _requested(lake, chain, step, max(requested, key=lambda one: one.asked_at))
    if gates := tuple(closed_gates(lake, first)):
        settled = _settings(chain, gates[-1].table.split("/")[0])
        at = attempt_at(lake, first.name, gates[-1].iteration, settled.method)
        inputs = inputs_of(lake, settled, gates[-1].iteration)
        if at is None or at.inputs == inputs:
            reason = f"iteration {gates[-1].iteration} by the check {'; '.join(map(str, gates))}"
            return State(first.name, "blocked", step, reason, gates[0].remedy, at, gates=gates, inputs=inputs)
    if isinstance(step, Stop):
        return State(first.name, "finished" if step.started else "not started", step, step.reason)
    settled = _settings(chain, step.method)
    last = attempt_at(lake, first.name, step.iteration, step.method)
    inputs, limit = inputs_of(lake, settled, step.iteration), settled.retries.attempts
    common: dict[str, Any] = {"attempt": last, "attempts": limit, "inputs": inputs}
    if last is not None and last.status == "stopped" and last == latest:
        reason = f"a person stopped {_turn(step)}{_at_stage(last)}; finished shards are kept"
        remedy = f"`selfimprove run {first.name}` resumes"
        return State(first.name, "stopped", step, f"{reason}; {remedy}", remedy, **common)
    if last is not None and (last.status == "failed" or last.was_killed) and last.inputs == inputs:
        return _failed(first.name, step, last, settled, common)
    return State(first.name, "ready", step, f"{_turn(step)} can run", **common)


def _ended_early(lake: Lake, experiment: Experiment) -> bool:
    """Return whether the first attempt was stopped or failed before it had imported seeds, and nothing has changed."""
    begun = attempt_at(lake, experiment.name, 0, experiment.method)
    if begun is None or not (begun.status in ("failed", "stopped") or begun.was_killed):
        return False
    return begun.status == "stopped" or begun.inputs == inputs_of(lake, experiment, 0)


def _failed(
    name: str, step: Continue, last: Attempt, settled: Experiment, common: Mapping[str, Any]
) -> State:
    """Return the state after a failed attempt, which is repeated if the failure may pass and attempts are left."""
    passes, limit = last.may_pass or last.was_killed, settled.retries.attempts
    reason = f"{_turn(step)}, attempt {last.number} of {limit}: {last.failure}"
    if passes and last.number < limit:
        ended = last.updated
        retry_at = ended + settled.retries.wait_after(last.number)
        left = retry_at - time.time()
        again = (
            f"the next attempt may start in {duration(left)}"
            if left > 0
            else "the next attempt may start now"
        )
        return State(name, "failed", step, f"{reason}; {again}", again, retry_at=retry_at, **common)
    remedy = f"fix the cause and run `selfimprove run {name}` to resume"
    why = "no attempt is left" if passes else "another attempt would fail as well"
    return State(name, "failed", step, f"{reason}; {why}: {remedy}", remedy, **common)


def _at_work(lake: Lake, chain: Sequence[Experiment], attempt: Attempt) -> State:
    """Return the state of an experiment whose attempt is alive."""
    limit = _settings(chain, attempt.method).retries.attempts
    step = Continue(attempt.iteration, after="", method=attempt.method)
    of = f", attempt {attempt.number} of {limit}" if attempt.number > 1 else ""
    common: dict[str, Any] = {"attempt": attempt, "attempts": limit}
    following = _next_stage(attempt)
    if not attempt.stage and (attempt.waits or (following and following.uses)):
        holder = holder_of_model(lake, attempt)
        if holder or attempt.waits:
            at = f" at {following.name}" if following else ""
            reason = f"{_turn(step)}{of} waits{at} for the model: {held_by(holder)}"
            return State(attempt.experiment, "waiting", step, reason, holder=holder, **common)
    doing = f"{attempt.stage or 'the next stage'} of {_turn(step)}{of}"
    if attempt.stage and attempt.progress is not None:
        doing += f": {attempt.progress}"
    return State(attempt.experiment, "running", step, doing, **common)


def _requested(lake: Lake, chain: Sequence[Experiment], step: Continue | Stop, attempt: Attempt) -> State:
    """Return the state of an experiment whose attempt the sensor asked for, and that has not begun."""
    holder = holder_of_model(lake, attempt)
    reason = f"{attempt.turn} was requested from Dagster and has not started"
    if holder is not None:
        reason += f"; the model is in use: {held_by(holder)}"
    limit = _settings(chain, attempt.method).retries.attempts
    return State(chain[0].name, "waiting", step, reason, attempt=attempt, holder=holder, attempts=limit)


def holder_of_model(lake: Lake, but: Attempt) -> Attempt | None:
    """Return the attempt, other than `but`, that works with this host's model at present; None if none is known."""
    here = (one for one in attempts(lake) if one.host == this_host())
    found = (one for one in here if one.has_model and one.run_id != but.run_id)
    return min(found, key=lambda one: one.stage_since, default=None)


def held_by(holder: Attempt | None) -> str:
    """Describe who has the model, for how long, and how far it is."""
    if holder is None:
        return "another run of Dagster has it"
    since, pid = duration(max(time.time() - holder.stage_since, 0.0)), holder.process.split("@")[0]
    far = f", {holder.progress}" if holder.progress else ""
    return f"{holder.turn} has had it for {since} (stage {holder.stage}{far}, process {pid})"


def closed_gates(lake: Lake, experiment: Experiment) -> Iterator[Gate]:
    """Yield the blocking checks that failed in the latest iteration of an experiment, over all its methods."""
    found = [one for method in experiment.chain for one in lake.manifests(f"{method}/*", experiment.name)]
    newest = max((one.iteration for one in found), default=-1)
    for manifest in found:
        if manifest.iteration != newest:
            continue
        remedies = {check.name: check.remedy for check in registry.table_of(manifest).checks}
        for check in lake.checks(manifest):
            if check.blocking and not check.passed:
                remedy = remedies.get(check.name, "Materialise the stage again")
                yield Gate(manifest.table, manifest.iteration, check.name, check.reason, remedy)


def inputs_of(lake: Lake, experiment: Experiment, iteration: int) -> str:
    """Return `b2:<hex>`, a hash of what an attempt at an iteration of the experiment's method starts from.

    It covers the settings, the files and folders that they name (by size and time), what is committed before the
    iteration, and revocations. It does not change while the iteration itself runs.
    """
    settings = experiment.model_dump(mode="json", exclude=_NO_EFFECT)
    paths = sorted({text for text in _texts(settings) if text.startswith("/")})
    own = f"{experiment.method}/"
    committed = [
        [one.table, one.partition, one.activity.id]
        for one in lake.manifests(experiment=experiment.name)
        if not (one.table.startswith(own) and one.iteration >= iteration)
    ]
    revoked = [[one.id, sorted(one.events)] for one in lake.ledger.revocations(experiment.name)]
    data = {
        "settings": settings,
        "files": [[path, *stamp] for path in paths if (stamp := _stamp(Path(path)))],
        "committed": committed,
        "revoked": revoked,
    }
    return content_hash(data)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return size and modification time of a file or folder; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for one in value.values():
                yield from _texts(one)
        case list():
            for one in value:
                yield from _texts(one)


def _settings(chain: Sequence[Experiment], method: str) -> Experiment:
    return next((one for one in chain if one.method == method), chain[0])


def _turn(step: Continue | Stop) -> str:
    return f"iteration {step.iteration} of {step.method}" if isinstance(step, Continue) else "the loop"


def _next_stage(attempt: Attempt) -> Stage | None:
    """Return the first stage that an attempt has not finished; None if there is none."""
    method = registry.methods().get(attempt.method)
    return next((one for one in method.stages if one.name not in attempt.stages), None) if method else None


def _at_stage(attempt: Attempt) -> str:
    following = _next_stage(attempt)
    return f" at {following.name}" if following else ""
