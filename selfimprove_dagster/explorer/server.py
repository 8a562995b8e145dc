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

from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.home.home import Home

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
            _end(child)


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


def _end(child: subprocess.Popen[bytes]) -> None:
    """Interrupt the child as Ctrl-C would; kill it after half a minute."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
