"""Start a server on this machine, wait until it answers, and stop it.

The server never outlives the process that started it, even if that process is killed: see `guard`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx2

from selfimprove_dagster.environment import home_folder
from selfimprove_dagster.errors import ModelError, ModelUnavailable
from selfimprove_dagster.language_model import guard

HOST = "127.0.0.1"
"""Servers listen to this machine only."""

SHOWN_LINES = 15
"""Number of lines at the end of a log that an error shows."""

_PAUSE = 0.25
_FIRST_NOTICE = 30.0
"""Seconds after which a start is reported, then after twice the time, and so on."""

_log = logging.getLogger(__name__)


class ServerProcess:
    """A server that runs until `close`, or until this process ends."""

    def __init__(
        self,
        program: Sequence[str],
        *,
        name: str,
        port: int,
        log: Path,
        start_limit: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `program` and wait until `/health` on its port answers with status 200.

        `name` is how messages call the server; its output goes to the file `log`; `start_limit` is in seconds;
        `environment` replaces this process's. Raises ModelError with the end of the log if the server ends, or does
        not answer in time.
        """
        self._name, self._log = name, log
        self.url = f"http://{HOST}:{port}"
        if _is_taken(port):
            raise ModelError(f"the {name} cannot listen to port {port}, as another program does: use another")
        self.process = guard.started(program, log, environment)
        try:
            self._wait(start_limit)
        except BaseException:
            self.close()
            raise

    @property
    def problem(self) -> str | None:
        """Return that the server has ended, with the end of its log; None while it runs."""
        code = self.process.poll()
        return None if code is None else f"the {self._name} ended with code {code}{self._log_end()}"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise ModelUnavailable with the end of the log for a ModelError within, if the server has ended."""
        try:
            yield
        except ModelError as error:
            if (problem := self.problem) is None:
                raise
            raise ModelUnavailable(problem) from error

    def close(self) -> None:
        """Stop the server and its processes, and wait until they have ended."""
        self.process.terminate()
        self.process.wait(guard.GRACE + 30)

    def _wait(self, limit: float) -> None:
        start, notice = time.monotonic(), _FIRST_NOTICE
        with httpx2.Client(trust_env=False, timeout=5) as client:
            while not self._answers(client):
                if problem := self.problem:
                    raise ModelError(problem)
                passed = time.monotonic() - start
                if passed > limit:
                    raise ModelError(
                        f"the {self._name} does not answer after {limit:g} s: raise its start limit, if it only "
                        f"needs more time{self._log_end()}"
                    )
                if passed > notice:
                    notice *= 2
                    _log.warning(
                        f"the {self._name} has been starting for {passed:.0f} s; {self._log} ends with: "
                        f"{' '.join(self._last_lines(1))}"
                    )
                time.sleep(_PAUSE)

    def _answers(self, client: httpx2.Client) -> bool:
        try:
            return client.get(f"{self.url}/health").status_code == 200
        except httpx2.HTTPError:
            return False

    def _log_end(self) -> str:
        return "\n".join([f". The end of its log {self._log}:", *self._last_lines(SHOWN_LINES)])

    def _last_lines(self, count: int) -> list[str]:
        return last_lines(self._log, count)


def last_lines(log: Path, count: int = SHOWN_LINES) -> list[str]:
    """Return the last lines of a log that are not blank; none where there is no log."""
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-count:]


def _is_taken(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((HOST, port)) == 0


def free_port() -> int:
    """Return a port of this machine at which no program listens."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


def new_log(name: str) -> Path:
    """Return the path of a new log in the home's folder `logs`."""
    time_of_start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    return home_folder() / "logs" / f"{name}-{time_of_start}-{os.getpid()}.log"
