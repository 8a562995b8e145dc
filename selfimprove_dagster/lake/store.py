"""Where the files of a lake are kept: on the disk, or in an object store with a copy of what was read on the disk.

Every reader and writer has paths on the disk. What differs is how a file comes there and how it becomes visible to
others. `Disk` is the folder itself. `lake.object_store.ObjectStore` works on a folder of this machine, which mirrors
the store: `glob` lists the store and fetches small files, `bring` fetches any, and what is written goes to the store
before it appears in the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from selfimprove_dagster.addresses import address_in
from selfimprove_dagster.environment import MARK
from selfimprove_dagster.lake.disk import file_system_errors, sync, write_atomically


class Store(Protocol):
    """The files of one home. Paths are those on this machine; names that begin with a dot stay on it."""

    @property
    def address(self) -> str:
        """Return what people call the place; empty for the disk."""

    def glob(self, folder: Path, pattern: str) -> list[Path]:
        """Return the paths of the files that match, in order. Shards need not be on this machine, other files are."""

    def bring(self, paths: Iterable[Path], *, anew: bool = False) -> None:
        """Fetch files that are not on this machine; with `anew`, also those that are. What is lost stays missing."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a small file, or replace it."""

    def publish(self, temporary: Path, path: Path, *, overwrite: bool) -> None:
        """Move a large file that was written under a temporary name. Raises FileExistsError."""

    def version(self, path: Path) -> Any:
        """Return the version of a file, which `swap` expects; None if there is no file."""

    def swap(self, path: Path, data: bytes, before: Any) -> Any:
        """Replace a file that still has this version; return its new one. Raises Outrun if it has another one."""

    def delete(self, path: Path) -> None:
        """Delete a file, if it is there."""

    def publish_folder(self, folder: Path) -> None:
        """Let others see a folder of files that is whole, and does not change any more.

        If another process published it before, that one's takes its place.
        """

    def bring_folder(self, folder: Path) -> None:
        """Fetch a published folder that is not on this machine. It appears whole, or not at all."""

    def lock(self, path: Path, *, wait: bool) -> AbstractContextManager[Any]:
        """Return a lock that is reentrant per thread. Without `wait`, entering raises filelock.Timeout if it is held.

        It ends with the process that holds it. What is read while it is held is current. What entering returns says by
        `is_locked` whether it is still held.
        """


class Disk:
    """A folder on the disk, which all processes see as it is."""

    address = ""

    def glob(self, folder: Path, pattern: str) -> list[Path]:
        """Return the files that match, in order."""
        return sorted(folder.glob(pattern))

    def bring(self, paths: Iterable[Path], *, anew: bool = False) -> None:
        """Do nothing: the files are where they belong."""

    def write(self, path: Path, data: bytes) -> None:
        """Write by rename."""
        with file_system_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)

    def publish(self, temporary: Path, path: Path, *, overwrite: bool) -> None:
        """Flush the file and rename it."""
        if path.exists() and not overwrite:
            raise FileExistsError(path)
        sync(temporary)
        temporary.replace(path)

    def version(self, path: Path) -> None:
        """Return None: the lock of a partition keeps other writers out."""

    def swap(self, path: Path, data: bytes, before: None) -> None:
        """Write by rename."""
        write_atomically(path, data)

    def delete(self, path: Path) -> None:
        """Delete a file, if it is there."""
        path.unlink(missing_ok=True)

    def publish_folder(self, folder: Path) -> None:
        """Do nothing: whoever wrote the folder renamed it when it was whole."""

    def bring_folder(self, folder: Path) -> None:
        """Do nothing: the folder is where it belongs."""

    def lock(self, path: Path, *, wait: bool) -> FileLock:
        """Return a file's lock, which the system releases when its process ends."""
        return FileLock(path, timeout=-1 if wait else 0, is_singleton=wait)


DISK = Disk()


def store_of(home: Path) -> Store:
    """Return the store of a home's folder: the disk, unless the folder is the mirror of an object store."""
    try:
        address = json.loads((home / MARK).read_text(encoding="utf-8"))["address"]
    except FileNotFoundError:
        return DISK
    from selfimprove_dagster.lake.object_store import object_store

    return object_store(address, home)


def bring_model(home: Path, folder: str | Path) -> None:
    """Fetch a trained model of a home that is in an object store, unless it is on this machine or is no such model."""
    path = Path(folder)
    if path.is_relative_to(home) and address_in(path) == path.relative_to(home).as_posix():
        store_of(home).bring_folder(path)
