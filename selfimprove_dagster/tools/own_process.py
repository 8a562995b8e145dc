"""A tool that is not built in, in a process of its own: it may hang or crash without harm to the caller.

The time limit is kept by ending that process; the next call starts another. This guards against mistakes, not
against malice: the process has the rights of the user who named the tool.

The package `pebble` (5.2) passes the same tests, with about 40 lines fewer here and in `worker.py`. It is not
used, since it reads answers by pickle: a tool that returned an object with `__reduce__` ran a command in the
caller. With it, a tool that ignores SIGTERM is stopped 3 s after its limit (here at its limit), a call takes
1.1 ms (here 0.5), and three threads of the caller poll.
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
"""Seconds of one call."""


START_LIMIT = 60.0
"""Seconds in which a tool must be imported and made."""


LONGEST_INPUT = 10_000


_LONGEST_ANSWER = 1 << 20


class _Stopped(Exception):
    """The process gave no answer, and why."""


class ToolProcess:
    """A tool whose code runs elsewhere; implements `base.Tool`.

    The class named `attribute` in `source`, a Python file or a module's name, is made without arguments.
    Raises ExperimentError when it cannot be, or is no tool. The file's hash is part of the version.
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

    def prompt(self, text: str) -> str:
        """The tool's prompt. Raises ExperimentError where it fails: without one the tool is of no use."""
        said = self._ask("prompt", text)
        if isinstance(said, ToolError):
            raise ExperimentError(
                f"tools: the prompt of {self._source}:{self._attribute} fails: {said.reason}"
            )
        return said

    def parse(self, arguments: str) -> str | ToolError:
        if len(arguments) > LONGEST_INPUT:
            return ToolError(f"the input has {len(arguments):,} characters: at most {LONGEST_INPUT:,}")
        return self._ask("parse", arguments)

    def run(self, input: str, context: Context) -> str | ToolError:
        return self._ask("run", input, context.date.isoformat() if context.date else None)

    def close(self) -> None:
        """End the process; a later call starts another."""
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
        """Start the process; what the tool says of itself."""
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
        """The process's answer. Raises _Stopped when it ends, or takes longer than `limit` seconds."""
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
