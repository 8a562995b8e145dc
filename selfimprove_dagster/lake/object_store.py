"""Keep a home in an object store (S3, Google Cloud Storage, Azure), through obstore.

The store has the layout of a home on the disk. Three of its promises are used:

- put if absent: a shard, or a part of a manifest, is written once
- compare and swap: a manifest replaces the one that its writer has seen, or nothing
- what was put is listed at once

A lock is a lease: an object that its holder renews. A process that is gone stops to renew, and the next one takes the
lease over, at once if both are on one host, else when it has run out by the clock of the store. A holder that was only
slow finds that its lease is lost, and a commit of it is refused since the manifest is no longer the one that it saw.

A copy on this machine is current if its modification time, which is not used otherwise, encodes the version that the
store lists. A file and its time appear together, by rename.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from filelock import Timeout

from selfimprove_dagster.errors import LakeNotWritable, StoreError, StoreUnavailable, first_line
from selfimprove_dagster.host import is_alive, own_name, process_name, temporary_path, this_host
from selfimprove_dagster.lake.disk import Outrun, file_checksum, file_system_errors

LEASE_SECONDS = 60.0
"""How long a lease lasts that is not renewed. It is renewed four times as often."""

_FRESH_SECONDS = 1.0
"""For how long a list of files is believed that was not read under a lock."""

_SKEW_SECONDS = 5.0
"""How far off the time of the store, as a process knows it, may be."""

_TOGETHER = 32
"""Number of small files that are fetched at a time."""

_ABANDONED_SECONDS = 10.0
"""Age from which on a copy of a file that the store does not list is deleted. A younger one may not be listed yet."""

_COPIES = ".copies"
"""The folder of a mirror in which copies are begun."""

_CLIENT: Any = {"timeout": "60s", "connect_timeout": "10s"}

T = TypeVar("T")


@dataclass(frozen=True)
class Version:
    """A version of an object, as the store names it."""

    e_tag: str | None
    version: str | None

    @classmethod
    def of(cls, meta: Any) -> Version:
        """Return the version in an answer of the store."""
        return cls(meta.get("e_tag"), meta.get("version"))

    @property
    def mode(self) -> Any:
        """Return the condition that the object still has this version."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def time(self) -> int:
        """Return the modification time, in nanoseconds, of a copy of this version: one before the year 2007."""
        return int.from_bytes(blake2b(repr(self).encode(), digest_size=8).digest()) >> 4


@cache
def _client(address: str) -> Any:
    """Return the connection of this process to a bucket, with a prefix."""
    try:
        from obstore.store import from_url
    except ImportError:
        raise StoreError(
            f"SELFIMPROVE_HOME={address} needs obstore: pip install 'selfimprove_dagster[store]'"
        ) from None
    try:
        if address.startswith("memory:"):
            return from_url(address)
        plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in (
            "1",
            "true",
        )  # not read where options are given
        return from_url(address, client_options={**_CLIENT, "allow_http": plain})
    except Exception as error:
        raise StoreError(f"the object store {address} cannot be opened: {first_line(error)}") from error


@lru_cache(maxsize=64)
def object_store(address: str, home: Path) -> ObjectStore:
    """Return the store of this process at an address, mirrored in the folder `home`, after it was probed."""
    return ObjectStore(address, home)


class ObjectStore:
    """The files of a home in an object store, mirrored in the folder `home`.

    Raises StoreError for a store that ignores conditions, and StoreUnavailable for one that does not answer.
    """

    def __init__(self, address: str, home: Path) -> None:
        self.address = address
        self._home = home
        self._client = _client(address)
        self._versions: dict[str, Version] = {}
        self._listed: dict[str, float] = {}
        self._leases: dict[tuple[str, int], _Lease] = {}
        self._guard = threading.RLock()
        self._pool = ThreadPoolExecutor(_TOGETHER, thread_name_prefix="object-store")
        self._clock = self._probe()
        self._fetch("lake/format.json")

    # ---- the files ---------------------------------------------------------------------------------------

    def glob(self, folder: Path, pattern: str) -> list[Path]:
        """Return the paths of the files that match, in order; small ones are on this machine afterwards."""
        wanted = pattern.split("/")
        base = self._key(folder)
        begin = f"{base}/" if base else ""
        fixed = 0
        while fixed < len(wanted) - 1 and "*" not in wanted[fixed]:
            fixed += 1
        self._refresh("/".join(filter(None, [base, *wanted[:fixed]])))
        with self._guard:
            keys = [key for key in self._versions if key.startswith(begin)]
        keys = [key for key in keys if _matches(key.removeprefix(begin).split("/"), wanted)]
        self._fetch_all(key for key in keys if _is_small(key) and not self._is_current(key))
        found = {self._home / key for key in keys}
        if wanted[-1].startswith("."):
            found.update(folder.glob(pattern))
        return sorted(found)

    def bring(self, paths: Iterable[Path], *, anew: bool = False) -> None:
        """Fetch what is not on this machine, or not in its current version."""
        paths = list(paths)
        for folder in {path.parent for path in paths}:
            self._refresh(self._key(folder))
        keys = (self._key(path) for path in paths)
        self._fetch_all(key for key in keys if anew or not self._is_current(key))
        for path in paths:
            if not path.is_file():  # it was deleted, and what named it replaced
                self._forget(self._key(path.parent))

    def write(self, path: Path, data: bytes) -> None:
        """Put a small file, then its copy."""
        self._keep(path, data, self._asked(lambda: self._put(self._key(path), data)))

    def publish(self, temporary: Path, path: Path, *, overwrite: bool) -> None:
        """Put a file if it is absent, or in any case with `overwrite`, then rename its copy."""
        key, data = self._key(path), temporary.read_bytes()
        try:
            version = self._asked(
                lambda: self._put(key, data) if overwrite else self._put_if(key, data, None)
            )
        except Outrun:
            raise FileExistsError(f"{path.name} is already written to {self.address}/{key}") from None
        self._place(temporary, path, version)

    def version(self, path: Path) -> Version | None:
        """Return the version of a file, as it was listed last."""
        self._refresh(self._key(path.parent))
        return self._versions.get(self._key(path))

    def swap(self, path: Path, data: bytes, before: Version | None) -> Version:
        """Put a file if it still has this version; return its new one. Raises Outrun."""
        version = self._asked(lambda: self._put_if(self._key(path), data, before))
        self._keep(path, data, version)
        return version

    def delete(self, path: Path) -> None:
        """Delete a file, here and in the store."""
        import obstore

        key = self._key(path)
        if not path.name.startswith("."):
            self._asked(lambda: obstore.delete(self._client, key))
            with self._guard:
                self._versions.pop(key, None)
        path.unlink(missing_ok=True)

    def publish_folder(self, folder: Path) -> None:
        """Put the files of a folder, then the list that names them if there is none; else fetch what it names."""
        import obstore

        self.bring_folder(folder)
        listed = _list_of(folder)
        if listed.is_file():
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        inside = f"{self._key(folder)}/{uuid4().hex}"
        content = {path.relative_to(folder).as_posix(): file_checksum(path) for path in files}

        def put() -> Version | None:
            for path, name in zip(files, content, strict=True):
                obstore.put(self._client, f"{inside}/{name}", path)
            data = json.dumps({"folder": inside, "files": content}, indent=1).encode()
            try:
                version = self._put_if(self._key(listed), data, None)
            except Outrun:
                obstore.delete(self._client, [f"{inside}/{name}" for name in content])
                return None
            self._keep(listed, data, version)
            return version

        if self._asked(put) is None:
            self.bring_folder(folder)

    def bring_folder(self, folder: Path) -> None:
        """Fetch the files that the list of a folder names, and rename the folder when it is whole.

        A folder of this machine that was never published gives way. Raises StoreError if files are lost or changed.
        """
        listed = _list_of(folder)
        if listed.is_file() and folder.is_dir():
            return
        answer = self._asked(lambda: self._get(self._key(listed)))
        if answer is None:
            return
        data, version = answer
        content = json.loads(bytes(data))
        if not _holds(folder, content["files"]):
            self._fetch_folder(folder, content)
        self._keep(listed, data, version)

    def _fetch_folder(self, folder: Path, content: Mapping[str, Any]) -> None:
        import obstore

        temporary, before = temporary_path(folder), temporary_path(folder)
        try:
            for name in content["files"]:
                path = temporary / name
                with file_system_errors(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as file:
                        for chunk in obstore.get(self._client, f"{content['folder']}/{name}").stream():
                            file.write(chunk)
            if not _holds(temporary, content["files"]):
                raise StoreError(f"{self.address}/{content['folder']} was changed: its checksums differ")
            if folder.is_dir():
                folder.rename(before)
            temporary.rename(folder)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.address}/{content['folder']} has lost files: {first_line(error)}; delete {self.address}/"
                f"{self._key(_list_of(folder))} and train the model again"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(before, ignore_errors=True)

    @contextmanager
    def lock(self, path: Path, *, wait: bool) -> Iterator[_Lease]:
        """Hold a lease; see `_Lease`. What is listed while it is held is listed anew."""
        key = self._key(path)
        place = (key, threading.get_ident())
        held = self._leases.get(place)
        if held is not None and wait:
            yield held
            return
        lease = _Lease(self, key)
        self._asked(lambda: lease.acquire(wait=wait))
        self._leases[place] = lease
        self._forget(self._key(path.parent))
        try:
            yield lease
        finally:
            del self._leases[place]
            lease.release()

    # ---- the mirror --------------------------------------------------------------------------------------

    def _key(self, path: Path) -> str:
        key = path.relative_to(self._home).as_posix()
        return "" if key == "." else key

    def _forget(self, base: str) -> None:
        """Do not believe a list of the files in `base` any more."""
        with self._guard:
            self._listed = {
                listed: at
                for listed, at in self._listed.items()
                if not _is_within(base, listed) and not _is_within(listed, base)
            }

    def _refresh(self, base: str) -> None:
        """List the files in a folder, unless that was done just now, and delete copies of lost ones."""
        started, now = time.monotonic(), time.time()
        with self._guard:
            listed = (at for within, at in self._listed.items() if _is_within(base, within))
            if any(started - at < _FRESH_SECONDS for at in listed):
                return
        found = self._asked(lambda: self._list(base))
        with self._guard:
            for key in [key for key in self._versions if _is_within(key, base) and key not in found]:
                del self._versions[key]
            self._versions.update(found)
            self._listed[base] = started
        self._remove_lost(base, found, now)

    def _list(self, base: str) -> dict[str, Version]:
        import obstore

        return {
            meta["path"]: Version.of(meta)
            for batch in obstore.list(self._client, base or None, chunk_size=1000)
            for meta in batch
            if not any(part.startswith(".") for part in meta["path"].split("/"))
        }

    def _remove_lost(self, base: str, found: Mapping[str, Version], now: float) -> None:
        if base.split("/")[0] != "lake":
            return
        for folder, folders, names in os.walk(self._home / base):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(folder, name) for name in names if not name.startswith(".")):
                if self._key(path) in found or path.name == "catalog.duckdb":
                    continue
                try:
                    if path.stat().st_ctime < now - _ABANDONED_SECONDS:
                        path.unlink()
                except FileNotFoundError:
                    continue

    def _is_current(self, key: str) -> bool:
        version = self._versions.get(key)
        try:
            return version is not None and (self._home / key).stat().st_mtime_ns == version.time
        except FileNotFoundError:
            return False

    def _fetch_all(self, keys: Iterable[str]) -> None:
        stale = list(keys)
        if len(stale) > 1:
            list(self._pool.map(self._fetch, stale))
        elif stale:
            self._fetch(stale[0])

    def _fetch(self, key: str) -> None:
        before = self._versions.get(key)
        found, path = self._asked(lambda: self._get(key)), self._home / key
        with self._guard:
            if self._versions.get(key) != before:
                return  # another thread wrote it meanwhile
            if found is None:
                self._versions.pop(key, None)
        if found is None:
            path.unlink(missing_ok=True)
        else:
            self._keep(path, found[0], found[1])

    def _keep(self, path: Path, data: Any, version: Version) -> None:
        """Write the copy of a file. A writer deletes what is unfinished in its partition, so this is done elsewhere."""
        temporary = temporary_path(self._home / _COPIES / path.name)
        with file_system_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.parent.mkdir(exist_ok=True)
            try:
                temporary.write_bytes(data)
                self._place(temporary, path, version)
            finally:
                temporary.unlink(missing_ok=True)

    def _place(self, temporary: Path, path: Path, version: Version) -> None:
        os.utime(temporary, ns=(version.time, version.time))
        temporary.replace(path)
        with self._guard:
            self._versions[self._key(path)] = version

    # ---- the store ---------------------------------------------------------------------------------------

    def _asked(self, request: Callable[[], T]) -> T:
        """Return the answer of the store; its errors say which store, and what to do."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            return request()
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise LakeNotWritable(
                f"the object store {self.address} refuses access: check its credentials and the rights of the bucket "
                f"({first_line(error)})"
            ) from error
        except BaseError as error:
            raise StoreUnavailable(
                f"the object store {self.address} does not answer as expected: {first_line(error)}"
            ) from error

    def _get(self, key: str) -> tuple[Any, Version] | None:
        import obstore

        try:
            answer = obstore.get(self._client, key)
            return answer.bytes(), Version.of(answer.meta)
        except FileNotFoundError:
            return None

    def _put(self, key: str, data: bytes, mode: Any = "overwrite") -> Version:
        import obstore

        return Version.of(obstore.put(self._client, key, data, mode=mode, use_multipart=False))

    def _put_if(self, key: str, data: bytes, before: Version | None) -> Version:
        """Put an object that still has this version, or is absent. Raises Outrun.

        A refusal is looked into. The answer to an earlier try may have been lost, so that the object is what was put.
        And a store may refuse two writers at once (409), after which the object is unchanged.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        for attempt in range(20):
            try:
                return self._put(key, data, before.mode if before else "create")
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                found = self._get(key)
                if found is not None and bytes(found[0]) == data:
                    return found[1]
                if (found[1] if found else None) != before:
                    raise Outrun(key) from None
            time.sleep(0.01 * attempt)
        raise StoreUnavailable(f"the object store {self.address} refused to write {key} 20 times: try again")

    def _probe(self) -> Callable[[], float]:
        """Check that the store obeys conditions; return its clock, in seconds.

        Raises StoreError for a store that does not.
        """
        import obstore

        def refused(data: bytes, before: Version | None) -> bool:
            try:
                self._put_if(key, data, before)
            except Outrun:
                return True
            return False

        def measured() -> tuple[float, float]:
            first = self._put_if(key, b"1", None)
            if not refused(b"2", None):
                raise StoreError(f"{said}: it overwrote an object that was to be put if absent. {remedy}")
            second = self._put_if(key, b"3", first)
            if not refused(b"4", first):
                raise StoreError(f"{said}: it replaced an object whose ETag had changed. {remedy}")
            if key not in {meta["path"] for batch in obstore.list(self._client, _PROBES) for meta in batch}:
                raise StoreError(f"{said}: it does not list what was put. {remedy}")
            meta = obstore.head(self._client, key)
            if Version.of(meta) != second:
                raise StoreError(f"{said}: an object has another ETag than the answer to its put. {remedy}")
            return meta["last_modified"].timestamp(), time.monotonic()

        key = f"{_PROBES}/{uuid4().hex}"
        said = f"the object store {self.address} cannot be a home"
        remedy = "Writers would overwrite each other. Use a store with conditional writes (If-None-Match, If-Match)"
        try:
            at, here = self._asked(measured)
        except NotImplementedError as error:
            raise StoreError(f"{said}: it has no conditional writes ({first_line(error)})") from error
        finally:
            with suppress(Exception):  # the first error says more
                obstore.delete(self._client, key)
        return lambda: at + time.monotonic() - here


_PROBES = ".probes"
"""Where a store is probed."""


class _Lease:
    """A lock that its holder renews in a thread of its own.

    The object holds who holds it; a released one holds null.
    """

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self._version: Version | None = None
        self._until = 0.0
        self._lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name=f"lease {key}")

    def acquire(self, *, wait: bool) -> None:
        """Take the lease when it is free, released, or its holder is gone. Raises filelock.Timeout."""
        pause = 0.02
        while not self._taken():
            if not wait:
                raise Timeout(self._key)
            time.sleep(pause)
            pause = min(0.5, pause * 1.5)
        self._thread.start()

    @property
    def is_locked(self) -> bool:
        """Return whether no other process can have taken the lease so far, nor will in half of its time."""
        return not self._lost and time.monotonic() < self._until - LEASE_SECONDS / 2

    def release(self) -> None:
        """Release the lease, unless it was lost."""
        self._ended.set()
        self._thread.join()
        if not self._lost:
            with suppress(Exception):  # it runs out by itself
                self._store._put_if(self._key, b"null", self._version)

    def _taken(self) -> bool:
        import obstore

        before = None
        try:
            answer = obstore.get(self._store._client, self._key)
            if not self._is_over(json.loads(bytes(answer.bytes())), answer.meta["last_modified"].timestamp()):
                return False
            before = Version.of(answer.meta)
        except FileNotFoundError:
            pass
        return self._put(before)

    def _is_over(self, holder: Any, at: float) -> bool:
        if holder is None:
            return True
        if holder["host"] == this_host():
            return not is_alive(holder["process"])
        return self._store._clock() - at > holder["seconds"] + _SKEW_SECONDS

    def _put(self, before: Version | None) -> bool:
        """Put the lease anew; return False if another process was faster."""
        holder = {
            "host": this_host(),
            "process": process_name(os.getpid()),
            "seconds": LEASE_SECONDS,
            "name": own_name(),
        }
        asked = time.monotonic()
        try:
            self._version = self._store._put_if(self._key, json.dumps(holder).encode(), before)
        except Outrun:
            return False
        self._until = asked + LEASE_SECONDS
        return True

    def _renew(self) -> None:
        while not self._ended.wait(LEASE_SECONDS / 4):
            try:
                if not self._put(self._version):
                    self._lost = True
                    return
            except Exception:
                continue  # the store may answer next time


def _list_of(folder: Path) -> Path:
    """Return the file that lists the files of a published folder, in the store and here."""
    return folder.with_name(f"{folder.name}.files.json")


def _holds(folder: Path, files: Mapping[str, str]) -> bool:
    """Return whether a folder holds exactly the files with these checksums."""
    if not folder.is_dir():
        return False
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return found == {*files} and all(
        file_checksum(folder / name) == checksum for name, checksum in files.items()
    )


def _is_within(key: str, base: str) -> bool:
    return not base or key == base or key.startswith(f"{base}/")


def _is_small(key: str) -> bool:
    """Return whether a file is fetched when it is found: what says which other files there are."""
    return key.startswith("lake/") and (key.endswith(".json") or key.startswith("lake/revocations/"))


def _matches(parts: list[str], pattern: list[str]) -> bool:
    return len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern))
