"""Ask a Python module that runs in a separate process, where it can hang or crash without harm to the caller.

The module reads JSON lines and writes JSON lines. At the time limit its process is killed; the next question
starts another. This protects against mistakes, not against malice: the process has the permissions of the user.

The package `pebble` (5.2) would save about 40 lines. It is not used, since it unpickles answers: an object with
`__reduce__` could run a command in the caller. Moreover, with `pebble` a process that ignores SIGTERM is stopped
3 s after its limit (here at its limit), a call takes 1.1 ms (here 0.5), and three threads of the caller poll.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import Any

_LONGEST_ANSWER = 1 << 20


class Stopped(Exception):
    """Raised with the reason why the process gave no answer."""


class OwnProcess:
    """A Python module in a process of its own. `what` names it in messages, such as "the tool".

    One thread asks at a time; callers hold a lock of their own.
    """

    def __init__(self, module: str, what: str) -> None:
        self._module, self._what = module, what
        self._process: subprocess.Popen[bytes] | None = None
        self._started_by = 0

    @property
    def runs(self) -> bool:
        """Return whether this process has started the other one; after a fork, its child has not."""
        return self._process is not None and self._started_by == os.getpid()

    def start(self) -> None:
        """Start the process."""
        self._started_by = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def ask(self, request: Any, limit: float) -> Any:
        """Return the process's answer to one line. Raises Stopped if it exits or takes longer than `limit` seconds."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + limit
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise Stopped(f"{self._what}'s process has ended with code {process.wait()}") from None
        read = b""
        while not read.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise Stopped(f"took longer than {limit:g} s and was stopped")
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                raise Stopped(f"{self._what}'s process has ended with code {process.wait()}")
            read += piece
            if len(read) > _LONGEST_ANSWER:
                raise Stopped(f"the answer is longer than {_LONGEST_ANSWER:,} bytes")
        return json.loads(read)

    def end(self) -> None:
        """Kill the process if it runs."""
        if self._process is not None and self.runs:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
        self._process = None
