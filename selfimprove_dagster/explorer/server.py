"""Starting the lineage pages, alone or beside Dagster: for this machine only, until either ends."""

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
    """Serve the lineage pages until Ctrl-C, or until the command `beside`, which runs meanwhile, ends.

    `token` admits those who review.

    Raises SelfImproveError when the port is taken, before anything is started, and when the command fails.
    """
    import uvicorn

    from selfimprove_dagster.explorer.pages import create_app

    listening = listen(port)
    settings = uvicorn.Config(create_app(home, dagster_url, token), log_level="warning", server_header=False)
    server = uvicorn.Server(settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what runs beside is ended, too
    child = subprocess.Popen(beside, start_new_session=True) if beside else None
    try:
        if child:
            threading.Thread(target=_end_with, args=(child, server), daemon=True).start()
        server.run(sockets=[listening])
        if child and child.poll():
            raise SelfImproveError(
                f"{' '.join(beside)} ended with code {child.returncode}; it says why above"
            )
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
        if child:
            _end(child)


def review_address(port: int) -> tuple[str, str]:
    """A new token for those who review, and the address that holds it, in the part that no server is sent."""
    token = secrets.token_urlsafe(24)
    return token, f"http://{LOCAL}:{port}/review#{token}"


def listen(port: int) -> socket.socket:
    """A socket bound to the port on this machine's own address."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOCAL, port))
    except OSError as error:
        listening.close()
        raise SelfImproveError(
            f"cannot listen on {LOCAL}:{port}: {error.strerror}; name another port"
        ) from None
    return listening


def dagster_command(port: int) -> list[str]:
    """The command that runs Dagster's UI and daemon on the code location."""
    location = ["--module-name", "selfimprove_dagster.definitions"]
    return [sys.executable, "-m", "dagster", "dev", "--host", LOCAL, "--port", str(port), *location]


def _end_with(child: subprocess.Popen[bytes], server: object) -> None:
    child.wait()
    server.should_exit = True  # type: ignore[attr-defined]


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask the child to end, as Ctrl-C would; after half a minute, make it."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
