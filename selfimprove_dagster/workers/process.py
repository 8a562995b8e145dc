"""Workers in processes of this machine.

    python -m selfimprove_dagster.workers.process FILE_DESCRIPTOR PARENT

A worker reads calls from a socket and answers them until the other end is closed. It ends as well, whatever it does,
when its parent is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.experiment.sections import WorkerResources
from selfimprove_dagster.language_model.base import Progress
from selfimprove_dagster.workers.pool import WorkerDied, described

_PAUSE = 0.5
"""Seconds between two looks at the parent."""


class LocalWorker:
    """A process of this machine that has a model open. Raises what opening the model raises."""

    def __init__(self, slot: int, path: str, options: Mapping[str, Any], resources: WorkerResources) -> None:
        self.slot = slot
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", __name__, str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(slot, resources),
                start_new_session=True,  # so that Ctrl-C reaches the stage alone, which ends its workers
            )
        self._connection = Connection(ours.detach())
        try:
            self.about = self._ask(("open", (path, dict(options))), None)
        except WorkerDied as died:
            self.close()
            raise ModelError(f"a worker ended while it opened {path}: {died}") from None
        except BaseException:
            self.close()
            raise

    def call(self, method: str, arguments: Sequence[Any], progress: Progress | None) -> Any:
        """Return what a method of the model returns, or raise its error. Raises WorkerDied if the process ends."""
        return self._ask((method, tuple(arguments)), progress)

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()

    def _ask(self, message: tuple[str, Any], progress: Progress | None) -> Any:
        try:
            self._connection.send(message)
            while True:
                kind, value = self._connection.recv()
                if kind == "progress":
                    if progress:
                        progress(*value)
                elif kind == "error":
                    raise value
                else:
                    return value
        except (EOFError, ConnectionError) as error:
            raise WorkerDied(_ending(self._process)) from error


def _environment(slot: int, resources: WorkerResources) -> dict[str, str]:
    """Return the environment of a worker: this process's, with the cores and GPUs that the worker has for itself."""
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if resources.cpus is not None:
        found["OMP_NUM_THREADS"] = str(resources.cpus)
    if (gpus := resources.gpus) is not None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        own = range(slot * gpus, (slot + 1) * gpus)
        names = [one.strip() for one in seen.split(",")] if seen else None
        if names is not None and own.stop > len(names):
            raise ModelError(
                f"run.workers needs GPUs {own.start} to {own.stop - 1}, and CUDA_VISIBLE_DEVICES has {len(names)}"
            )
        found["CUDA_VISIBLE_DEVICES"] = ",".join(names[one] if names else str(one) for one in own)
    return found


def _ending(process: subprocess.Popen[bytes]) -> str:
    """Return in words how a process has ended."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    code = process.returncode
    if code is None:
        return "it closed its connection"
    if code == -signal.SIGKILL:
        return "its process was killed, as by a system that is short of memory"
    return (
        f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"its exit code is {code}"
    )


def serve(connection: Connection) -> None:
    """Open a model, and answer calls until the other end is closed."""
    from selfimprove_dagster.language_model import open_language_model

    def progress(units: int, tokens: int) -> None:
        connection.send(("progress", (units, tokens)))

    model: Any = None
    with suppress(EOFError, ConnectionError):
        while True:
            method, arguments = connection.recv()
            try:
                if method == "open":
                    path, options = arguments
                    model = open_language_model(path, **options)
                    answer = described(model)
                elif method == "generate":
                    answer = model.generate(*arguments, progress=progress)
                else:
                    answer = getattr(model, method)(*arguments)
            except Exception as error:
                connection.send(("error", error))
            else:
                connection.send(("answer", answer))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PAUSE)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    serve(Connection(int(sys.argv[1])))
