"""The machine that this process works on, its processes, and names for temporary files that no other process uses.

Several machines may share a home, so a process is known by its host, its pid and its start.
"""

from __future__ import annotations

import glob
import os
import re
import socket
from pathlib import Path
from uuid import uuid4

import psutil


def this_host() -> str:
    """Return the name of this machine, as its processes are recorded."""
    return socket.gethostname()


def machine() -> str:
    """Return the name under which models are limited: $SELFIMPROVE_MACHINE, by default the name of the host.

    Containers of one machine, whose hosts have several names, set the variable to one name.
    """
    return os.environ.get("SELFIMPROVE_MACHINE") or this_host()


def process_name(pid: int) -> str:
    """Return `<pid>@<start time>` of a live process, unlike any later one with the same pid; empty if it is dead."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{pid}@{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""


def is_alive(process: str) -> bool:
    """Return whether the process of this host with this `process_name` is alive."""
    return bool(process) and process == process_name(int(process.split("@")[0]))


def described(process: str, host: str) -> str:
    """Describe another process by its pid, and by its host if that is not this one."""
    pid = process.split("@")[0]
    return f"another process, {pid}" + (f" on {host}" if host != this_host() else "")


def own_name() -> str:
    """Return a part of a file name that no other call returns on any host: `<host>.<process_name>.<8 hex digits>`."""
    return f"{_in_file_names(this_host())}.{process_name(os.getpid())}.{uuid4().hex[:8]}"


_OWN_NAME = re.compile(r"(?P<host>[A-Za-z0-9-]+)\.(?P<process>\d+@\d+\.\d+)\.[0-9a-f]{8}")


def temporary_path(path: Path) -> Path:
    """Return a hidden path beside `path` that no other process, of any host, writes to."""
    return path.with_name(f".{path.name}.{own_name()}.tmp")


def was_left(name: str) -> bool:
    """Return whether a name begins with the `own_name` of a process of this host that has ended.

    Nothing is known of the processes of other hosts.
    """
    made = _OWN_NAME.match(name)
    return made is not None and made["host"] == _in_file_names(this_host()) and not is_alive(made["process"])


def delete_left(path: Path) -> None:
    """Delete what processes of this host that were killed left of writing to `path`."""
    begins = f".{path.name}."
    for left in path.parent.glob(f"{glob.escape(begins)}*.tmp"):
        if was_left(left.name.removeprefix(begins)):
            left.unlink(missing_ok=True)


def _in_file_names(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", name)[:64]
