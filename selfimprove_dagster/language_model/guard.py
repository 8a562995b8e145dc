"""Run a program as long as another process lives: `python -I -S guard.py PARENT GRACE PROGRAM ARGUMENT…`.

`PARENT` is the id of the process that started this one. When it ends, in whatever way, or when this process gets
SIGTERM, the program gets SIGTERM, and after `GRACE` seconds it and the processes that it started are killed. This
file imports the standard library only and is run by its path, so that it starts at once and holds no memory.
`started` runs a program so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

GRACE = 30.0
"""Seconds from SIGTERM to SIGKILL."""

_PAUSE = 0.1
"""Seconds between two looks at the program and at the parent."""


def guard(parent: int, grace: float, program: list[str]) -> int:
    """Return the exit code of the program, negative for a signal."""
    ends = False

    def end(*_: object) -> None:
        nonlocal ends
        ends = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    process = subprocess.Popen(program, stdin=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not ends and os.getppid() == parent:
        time.sleep(_PAUSE)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def started(
    program: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program as long as this process lives, with its output in the file `log`.

    `environment` replaces this process's. SIGTERM to the returned process ends the program.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(GRACE), *program],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environment,
            start_new_session=True,  # so that Ctrl-C does not reach it before the stage has ended
        )


if __name__ == "__main__":
    code = guard(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
    sys.exit(code if code >= 0 else 128 - code)
