"""What the environment says of this installation."""

from __future__ import annotations

import json
import os
import re
from hashlib import blake2b
from pathlib import Path

from selfimprove_dagster.errors import StoreError
from selfimprove_dagster.host import temporary_path

MARK = "object_store.json"
"""The file in the folder of a home that names the object store of which the folder is a mirror."""

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl")
"""The object stores that can be a home: Amazon S3 and what speaks its language, Google Cloud Storage, Azure."""


def home_folder() -> Path:
    """The folder that SELFIMPROVE_HOME names, by default `.selfimprove` in the working directory.

    Of an object store (`s3://bucket/prefix`), it is the folder of this machine that mirrors it. Raises StoreError for
    an address of another kind.
    """
    given = os.environ.get("SELFIMPROVE_HOME", ".selfimprove")
    if "://" in given:
        return _mirror(given.rstrip("/"))
    return Path(given).expanduser().absolute()


def cache_folder() -> Path:
    """The folder for copies of what object stores hold: $SELFIMPROVE_CACHE, by default in the user's cache folder."""
    if given := os.environ.get("SELFIMPROVE_CACHE"):
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "selfimprove"


def _mirror(address: str) -> Path:
    scheme, _, place = address.partition("://")
    if scheme not in SCHEMES or not place:
        raise StoreError(
            f"SELFIMPROVE_HOME={address}: a home is a folder, or an object store such as s3://bucket/prefix "
            f"({', '.join(f'{one}://' for one in SCHEMES)})"
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", place)[:80]
    folder = cache_folder() / "homes" / f"{name}-{blake2b(address.encode(), digest_size=4).hexdigest()}"
    if not (folder / MARK).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(folder / MARK)
        temporary.write_text(json.dumps({"address": address}), encoding="utf-8")
        temporary.replace(folder / MARK)
    return folder
