"""Hand calls of a model to workers, each of which has the model open, and replace workers that die."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.base import LanguageModel, Progress
from selfimprove_dagster.words import count

Log = Callable[[str], None]

DEATHS = 3
"""Workers that may die during one call, before it counts as what kills them."""


class WorkerDied(Exception):
    """A worker ended during a call, or could not be reached any more."""


_KNOWN = (
    "model_id",
    "engine",
    "promise",
    "positions",
    "device",
    "dtype",
    "revision",
    "cannot_score",
    "token_budget",
)


def described(model: LanguageModel) -> dict[str, Any]:
    """Return what a worker says of its model: its id, engine and promise, and what else is known of it."""
    return {name: getattr(model, name) for name in _KNOWN if hasattr(model, name)}


class Worker(Protocol):
    """A process that has a model open, and does one call at a time. Its `slot` is below the number of workers."""

    slot: int
    about: dict[str, Any]
    """What is known of its model; see `described`."""

    def call(self, method: str, arguments: Sequence[Any], progress: Progress | None) -> Any:
        """Return what a method of the model returns, or raise its error. Raises WorkerDied if the worker ends."""

    def close(self) -> None:
        """End the worker."""


class Pool:
    """At most `most` workers, started one by one as calls need them.

    Threads may call at the same time: each call has a worker for itself, and waits while none is free. A call whose
    worker dies is repeated by another, so that nothing but this call is lost.
    """

    def __init__(self, most: int, start: Callable[[int], Worker], log: Log) -> None:
        self.count = most
        self._start, self._log = start, log
        self._idle: list[Worker] = []
        self._all: list[Worker] = []
        self._slots = [*range(most)]
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()

    def first(self) -> Worker:
        """Return a worker, which may be at work; starts the first one. Raises what its start raises."""
        worker = self._take()
        self._give(worker)
        return worker

    def call(self, method: str, arguments: Sequence[Any], progress: Progress | None = None) -> Any:
        """Return what a method of the model returns.

        Raises what the method raises, and ModelError if `DEATHS` workers die in turn during this call.
        """
        for death in range(1, DEATHS + 1):
            worker = self._take()
            counted = _Counted(progress)
            try:
                found = worker.call(method, arguments, counted.advance if progress else None)
            except WorkerDied as died:
                self._drop(worker)
                if self._closed:
                    raise
                counted.take_back()
                last = died
                if death < DEATHS:
                    self._log(f"worker {worker.slot + 1} ended: {died}; another one repeats its part")
                continue
            except BaseException:
                self._give(worker)
                raise
            self._give(worker)
            return found
        raise ModelError(
            f"{DEATHS} workers ended in turn at the same part of the work, the last because {last}; give each worker "
            "more memory (fewer workers), or make the parts smaller"
        )

    def close(self) -> None:
        """End all workers, whatever they do."""
        with self._changed:
            self._closed = True
            workers = [*self._all]
            self._changed.notify_all()
        for worker in workers:
            worker.close()

    # ---- taking and giving back ----------------------------------------------------------------------

    def _take(self) -> Worker:
        with self._changed:
            while True:
                if self._closed:
                    raise WorkerDied("the stage has ended")
                if self._idle:
                    return self._idle.pop()
                if self._slots:
                    slot = self._slots.pop(0)
                    threading.Thread(target=self._grow, args=(slot,), daemon=True).start()
                elif not self.count:
                    assert self._error is not None
                    raise self._error
                self._changed.wait()

    def _grow(self, slot: int) -> None:
        """Start a worker; if it cannot start, fewer of them do the work."""
        worker, error = None, None
        try:
            worker = self._start(slot)
        except BaseException as raised:
            error = raised
        with self._changed:
            if worker is not None:
                self._all.append(worker)
                self._idle.append(worker)
            else:
                self._error = error
                self.count -= 1
            closed, left = self._closed, self.count
            self._changed.notify_all()
        if closed and worker is not None:
            worker.close()
        if error is not None and left and not closed:
            self._log(f"{count(left, 'worker')} in all, as no further one could start: {error}")

    def _give(self, worker: Worker) -> None:
        with self._changed:
            self._idle.append(worker)
            self._changed.notify_all()

    def _drop(self, worker: Worker) -> None:
        worker.close()
        with self._changed:
            self._all.remove(worker)
            self._slots.append(worker.slot)
            self._changed.notify_all()


class _Counted:
    """Counts the progress of a call, to take it back if the call is repeated."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._units = self._tokens = 0

    def advance(self, units: int, tokens: int) -> None:
        self._units, self._tokens = self._units + units, self._tokens + tokens
        if self._progress:
            self._progress(units, tokens)

    def take_back(self) -> None:
        if self._progress and (self._units or self._tokens):
            self._progress(-self._units, -self._tokens)
