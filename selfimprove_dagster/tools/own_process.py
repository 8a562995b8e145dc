"""Run a tool that is not built in in a separate process, where it can hang or crash without harm to the
caller.

At the time limit the process is killed; the next call starts another. This protects against mistakes, not
against malice: the process has the permissions of the user.

The package `pebble` (5.2) passes the same tests and would save about 40 lines here and in `worker.py`. It is
not used, since it unpickles answers: a tool that returned an object with `__reduce__` could run a command in
the caller. Moreover, with `pebble` a tool that ignores SIGTERM is stopped 3 s after its limit (here at its
limit), a call takes 1.1 ms (here 0.5), and three threads of the caller poll.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any

from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.tools.base import Context, ToolError

TIME_LIMIT = 10.0
"""Time limit of a call in seconds."""


START_LIMIT = 60.0
"""Time limit for importing and creating a tool, in seconds."""


LONGEST_INPUT = 10_000


_LONGEST_ANSWER = 1 << 20


class _Stopped(Exception):
    """Raised with the reason why the process gave no answer."""


class ToolProcess:
    """A tool whose code runs in another process; implements `base.Tool`.

    The class `attribute` in `source`, a Python file or the name of a module, is created without arguments.
    Raises ExperimentError if this fails or the object is not a tool. The file's hash is part of the version.
    """

    def __init__(self, source: str, attribute: str, *, time_limit: float = TIME_LIMIT) -> None:
        self._source, self._attribute = source, attribute
        self._time_limit = time_limit
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with self._lock:
                described = self._started()
        except _Stopped as error:
            raise ExperimentError(f"tools: {source}:{attribute} cannot be used: {error}") from None
        self.name: str = described["name"]
        self.version: str = described["version"]
        self.introduction: str = described["introduction"]
        self.description: str = described["description"]
        self.shots = [(plain, annotated) for plain, annotated in described["shots"]]

    def parse(self, arguments: str) -> str | ToolError:
        if len(arguments) > LONGEST_INPUT:
            return ToolError(f"the input has {len(arguments):,} characters: at most {LONGEST_INPUT:,}")
        return self._ask("parse", arguments)

    def run(self, input: str, context: Context) -> str | ToolError:
        return self._ask("run", input, context.date.isoformat() if context.date else None)

    def close(self) -> None:
        """Stop the process; a later call starts another."""
        with self._lock:
            self._end()

    def _ask(self, method: str, *arguments: str | None) -> str | ToolError:
        with self._lock:
            try:
                if self._process is None:
                    self._started()
                answer = self._exchanged([method, *arguments], self._time_limit)
            except _Stopped as error:
                self._end()
                return ToolError(str(error))
        if "error" in answer:
            return ToolError(str(answer["error"]))
        return str(answer["text"])

    def _started(self) -> dict[str, Any]:
        """Start the process and return the tool's description of itself."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "selfimprove_dagster.tools.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            described = self._exchanged([self._source, self._attribute], START_LIMIT)
            if "error" in described:
                raise _Stopped(described["error"])
        except _Stopped:
            self._end()
            raise
        return described

    def _exchanged(self, request: list[str | None], limit: float) -> dict[str, Any]:
        """Return the process's answer. Raises _Stopped if it exits or takes longer than `limit` seconds."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + limit
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise _Stopped(f"the tool's process has ended with code {process.wait()}") from None
        read = b""
        while not read.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise _Stopped(f"took longer than {limit:g} s and was stopped")
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                raise _Stopped(f"the tool's process has ended with code {process.wait()}")
            read += piece
            if len(read) > _LONGEST_ANSWER:
                raise _Stopped(f"the answer is longer than {_LONGEST_ANSWER:,} bytes")
        answer: dict[str, Any] = json.loads(read)
        return answer

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None
