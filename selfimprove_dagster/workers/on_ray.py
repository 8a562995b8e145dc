"""Workers in a Ray cluster: an actor each, with the model open.

Ray restarts no actor itself (`max_restarts` 0): with restarts, a call of an actor whose node is gone waits without end
where no node is added. The pool repeats the call in a worker that lives, and starts another one where there is room.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from selfimprove_dagster.errors import ModelError, ModelUnavailable, first_line
from selfimprove_dagster.experiment.sections import WorkersSection
from selfimprove_dagster.language_model.base import Progress
from selfimprove_dagster.workers.pool import Log, WorkerDied, described

_SECONDS_TO_CONNECT = 10.0


class Engine:
    """A model, open in an actor."""

    def __init__(self, path: str, options: Mapping[str, Any]) -> None:
        from selfimprove_dagster.language_model import open_language_model

        self._model = open_language_model(path, **options)

    def about(self) -> dict[str, Any]:
        """Return what is known of the model."""
        return described(self._model)

    def call(self, method: str, arguments: Sequence[Any]) -> Any:
        """Return what a method of the model returns."""
        return getattr(self._model, method)(*arguments)


class RayWorker:
    """An actor of a Ray cluster."""

    def __init__(self, slot: int, actor: Any, about: dict[str, Any]) -> None:
        self.slot, self.about = slot, about
        self._actor = actor

    def call(self, method: str, arguments: Sequence[Any], progress: Progress | None) -> Any:
        """Return what a method of the model returns, or raise its error. Raises WorkerDied if the actor ends.

        Progress is reported at the end of the call.
        """
        found = _got(self._actor.call.remote(method, arguments))
        if progress:
            progress(sum(map(len, found)), sum(one.tokens for group in found for one in group))
        return found

    def close(self) -> None:
        """End the actor."""
        import ray

        if ray.is_initialized():
            ray.kill(self._actor)


class RayWorkers:
    """Starts workers in a Ray cluster, which a process joins once."""

    def __init__(self, workers: WorkersSection, path: str, options: Mapping[str, Any], log: Log) -> None:
        """Join the cluster. Raises ModelError where Ray is missing, and ModelUnavailable where no cluster answers."""
        try:
            import ray
        except ImportError:
            raise ModelError(
                "run.workers.kind is ray, and Ray is not installed: pip install 'selfimprove_dagster[ray]'"
            ) from None
        self._workers, self._path, self._options = workers, path, options
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            place = workers.address or os.environ.get("RAY_ADDRESS")
            _check_that_answers(place or "")
            try:
                with _own_signals():
                    ray.init(address=place, log_to_driver=False, logging_level=logging.WARNING)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise _missing(place or "this machine", error) from error
        alive = [node for node in ray.nodes() if node["Alive"]]
        log(f"Ray cluster with {len(alive)} nodes and {ray.cluster_resources().get('CPU', 0):g} cores")

    def start(self, slot: int) -> RayWorker:
        """Start a worker. Raises what opening the model raises, and ModelError if there is no room for it."""
        import ray

        needs = self._workers.resources
        actor: Any = (
            ray.remote(Engine)
            .options(num_cpus=needs.cpus or 1, num_gpus=needs.gpus or 0, max_restarts=0)
            .remote(self._path, dict(self._options))
        )
        try:
            return RayWorker(slot, actor, _got(actor.about.remote(), self._workers.patience))
        except ray.exceptions.GetTimeoutError:
            ray.kill(actor)
            raise ModelError(
                f"no worker with {needs.cpus or 1} cores and {needs.gpus or 0} GPUs was ready in the Ray cluster "
                f"within {self._workers.patience:g} s: lower run.workers.count or its resources, or raise its patience"
            ) from None
        except WorkerDied as died:
            raise ModelError(f"a worker ended while it opened {self._path}: {died}") from None


def _check_that_answers(address: str) -> None:
    """Raise ModelUnavailable if nothing listens at `<host>:<port>`: Ray would try to connect for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()
        except OSError as error:
            raise _missing(address, error) from error


def _missing(place: str, error: Exception) -> ModelUnavailable:
    return ModelUnavailable(f"no Ray cluster at {place}: {first_line(error)}")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what this process does on SIGTERM, which joining a cluster changes."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _got(reference: Any, limit: float | None = None) -> Any:
    """Return the answer of an actor, or raise its error."""
    import ray

    try:
        return ray.get(reference, timeout=limit)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError as error:
        raise WorkerDied(first_line(error)) from error
