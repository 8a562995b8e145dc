"""Find a user's own code by name: in a file, in a module, or offered by an installed package."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any


def found(name: str, group: str) -> tuple[Any, str] | None:
    """Return the object with a name, and the release or the hash of the file that it comes from; None if unknown.

    A name is `my_file.py:Thing`, an object in a file, or that of an entry point in the `group`. Raises ValueError for a
    file that is missing or cannot be loaded. An object that the file lacks is None.
    """
    path, _, attribute = name.rpartition(":")
    if path.endswith(".py"):
        return _in_file(Path(path), attribute)
    for point in entry_points(group=group):
        if point.name == name:
            return point.load(), f"{point.dist.name}-{point.dist.version}" if point.dist else point.value
    return None


def offered(group: str) -> Iterator[str]:
    """Yield the names of a group of entry points, sorted."""
    yield from sorted(point.name for point in entry_points(group=group))


def located(name: str, folder: Path) -> str:
    """Return a name with the whole path of its file, which is relative to `folder`."""
    path, separator, attribute = name.rpartition(":")
    if not separator or not path.endswith(".py"):
        return name
    return f"{os.path.normpath(folder / os.path.expanduser(path))}:{attribute}"  # noqa: PTH111 (never raises)


def without_folder(name: str) -> str:
    """Return a name without the folder of its file, which is no part of what the code does."""
    return Path(name).name if ".py:" in name else name


def _in_file(path: Path, attribute: str) -> tuple[Any, str]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give an existing file")
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return getattr(_module(path, digest), attribute, None), f"b2:{digest}"


@cache
def _module(path: Path, digest: str) -> Any:
    """Return the module in a file; it is loaded again when its content has changed."""
    spec = importlib.util.spec_from_file_location(f"selfimprove_own_{digest}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # any error of a user's file
        raise ValueError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module
