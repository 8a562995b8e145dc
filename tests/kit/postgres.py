"""A real Postgres server of a test's own: on 127.0.0.1, in a temporary folder, without root's rights."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _program(name: str) -> str:
    """A program of the server, which Debian keeps out of the path."""
    found = shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default="")
    if not found:
        pytest.skip(f"there is no Postgres server ({name}): apt-get install postgresql")
    return found


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """A server with an empty database; gives the variables that `deploy/dagster.yaml` reads."""
    programs = {name: _program(name) for name in ("initdb", "postgres")}
    # The server refuses to be run by root.
    as_user = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid} if os.geteuid() == 0 else {}
    folder, password = Path(tempfile.mkdtemp(prefix="selfimprove-postgres-")), secrets.token_hex(8)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    try:
        (folder / "password").write_text(password)
        if as_user:
            for path in (folder, folder / "password"):
                shutil.chown(path, **as_user)
        data = str(folder / "data")
        made = [programs["initdb"], "-D", data, "-U", "dagster", "-A", "scram-sha-256", "--no-sync"]
        subprocess.run(
            [*made, f"--pwfile={folder / 'password'}"], check=True, capture_output=True, cwd=folder, **as_user
        )
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs["postgres"], "-D", data, "-h", "127.0.0.1", "-p", port, "-k", str(folder)],
                stdout=log,
                stderr=log,
                cwd=folder,
                **as_user,
            )
            try:
                _wait(server, port, folder / "log")
                yield {
                    "SELFIMPROVE_POSTGRES_HOST": "127.0.0.1",
                    "SELFIMPROVE_POSTGRES_PORT": port,
                    "SELFIMPROVE_POSTGRES_USER": "dagster",
                    "SELFIMPROVE_POSTGRES_PASSWORD": password,
                    "SELFIMPROVE_POSTGRES_DB": "postgres",
                }
            finally:
                server.send_signal(signal.SIGINT)  # "fast": open connections are ended
                server.wait(timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: subprocess.Popen[bytes], port: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            if "ready to accept connections" in log.read_text():
                return
