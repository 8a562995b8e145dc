"""Start the lineage pages, alone or together with Dagster, on this machine only."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

import psutil

from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.work.attempts import attempts

LOCAL = "127.0.0.1"


def serve_pages(
    home: Home, port: int, dagster_url: str, beside: Sequence[str] = (), token: str | None = None
) -> None:
    """Serve the lineage pages until Ctrl-C, or until the parallel command `beside` exits.

    `token` admits reviewers.

    Raises SelfImproveError if the port is in use, before anything is started, or if the command fails.
    """
    import uvicorn

    from selfimprove_dagster.explorer.pages import create_app

    listening = listen(port)
    settings = uvicorn.Config(create_app(home, dagster_url, token), log_level="warning", server_header=False)
    server = uvicorn.Server(settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the parallel command is stopped, too
    child = subprocess.Popen(beside, start_new_session=True) if beside else None
    try:
        if child:
            threading.Thread(target=_end_with, args=(child, server), daemon=True).start()
        server.run(sockets=[listening])
        if child and child.poll():
            raise SelfImproveError(
                f"{' '.join(beside)} exited with code {child.returncode}; see its messages above"
            )
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
        if child:
            _end(child, home)


def review_address(port: int) -> tuple[str, str]:
    """Return a new token for reviewers, and the address with the token in its (never sent) fragment."""
    token = secrets.token_urlsafe(24)
    return token, f"http://{LOCAL}:{port}/review#{token}"


def listen(port: int) -> socket.socket:
    """Return a socket that is bound to the port on the loopback address."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOCAL, port))
    except OSError as error:
        listening.close()
        raise SelfImproveError(
            f"cannot listen on {LOCAL}:{port}: {error.strerror}; choose another port"
        ) from None
    return listening


def dagster_command(port: int) -> list[str]:
    """Return the command that runs Dagster's UI and daemon for the code location."""
    location = ["--module-name", "selfimprove_dagster.definitions"]
    return [sys.executable, "-m", "dagster", "dev", "--host", LOCAL, "--port", str(port), *location]


def _end_with(child: subprocess.Popen[bytes], server: object) -> None:
    child.wait()
    server.should_exit = True  # type: ignore[attr-defined]


_SECONDS_TO_END = 30.0
"""How long processes have to end by themselves before they are killed."""


def _end(child: subprocess.Popen[bytes], home: Home) -> None:
    """Interrupt the child and the runs that it started as Ctrl-C would, and kill what is left after a while.

    Says what was at work, and what goes on in other processes.
    """
    started = _descendants(child)
    at_work = [one for one in attempts(home.lake) if one.is_alive]
    own = {str(process.pid) for process in started}
    for attempt in at_work:
        stage = f" at {attempt.stage}" if attempt.stage else ""
        if own & {attempt.process.split("@")[0], attempt.parent.split("@")[0]}:
            _say(
                f"stopping {attempt.turn}{stage}: finished shards are kept, and it resumes when the sensor or "
                f"`selfimprove run {attempt.experiment}` starts it again"
            )
        else:
            _say(f"{attempt.turn}{stage} goes on in process {attempt.process.split('@')[0]}")
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        child.wait(_SECONDS_TO_END)
    left = [process for process in started if process.is_running()]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, left = psutil.wait_procs(left, _SECONDS_TO_END)
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _descendants(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes that the child started, directly or not."""
    try:
        return psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
