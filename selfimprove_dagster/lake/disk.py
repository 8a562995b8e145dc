"""Write files atomically and durably, and turn file system errors into messages that say what to do."""

from __future__ import annotations

import errno
import os
import shutil
from hashlib import blake2b
from pathlib import Path
from types import TracebackType

import duckdb
import polars as pl

from selfimprove_dagster.errors import LakeNotWritable
from selfimprove_dagster.host import temporary_path

_WRITERS_ERRORS = (OSError, pl.exceptions.PolarsError, duckdb.IOException, RuntimeError)


class Outrun(Exception):
    """A file was replaced by another process since its version was read."""


class file_system_errors:
    """Turns an error of the file system into a LakeNotWritable that says what to do."""

    _REMEDIES = {  # noqa: RUF012
        errno.ENOSPC: "the disk is full: free some space, then run again; committed shards are kept",
        errno.EDQUOT: "the disk quota is used up: free some space, then run again; committed shards are kept",
        errno.EROFS: "the file system is read-only: set SELFIMPROVE_HOME to a writable folder",
        errno.EACCES: "permission denied: set SELFIMPROVE_HOME to a writable folder",
        errno.EPERM: "not permitted: set SELFIMPROVE_HOME to a writable folder",
    }

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        # The last one is matched by name, so that its package need not be imported.
        if not isinstance(error, _WRITERS_ERRORS) and type(error).__name__ != "SafetensorError":
            return
        code = getattr(error, "errno", None)
        if code is None:  # Polars, DuckDB and safetensors pass on only the system's message
            named = (known for known in self._REMEDIES if os.strerror(known) in str(error))
            code = next(named, None)
        if code is None and "inline_container" in str(error) and _is_full(self.path):  # torch not even that
            code = errno.ENOSPC
        if code in self._REMEDIES:
            raise LakeNotWritable(f"cannot write {self.path}: {self._REMEDIES[code]}") from error


def _is_full(path: Path) -> bool:
    folder = next(parent for parent in path.parents if parent.exists())
    return shutil.disk_usage(folder).free < 1 << 20


def file_checksum(path: Path) -> str:
    """Return `b2:` and the blake2b-128 of a file's bytes."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return "b2:" + digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` by rename: a reader, or a crash, finds either the old or the new file."""
    temporary = temporary_path(path)
    with file_system_errors(path):
        try:
            temporary.write_bytes(data)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
