"""Describe work that may run in another process: a function by name, with plain arguments.

The work of a shard, a reward or a training job is passed on as a `Spec`, never as a closure, so that a worker
on another machine can run the same function. If the function belongs to a method outside this package, the
spec contains a hash of that method's files, and a worker whose files differ refuses it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import MethodError
from selfimprove_dagster.lake.records import canonical_json

_SHIPPED = __package__.split(".")[0]


@dataclass(frozen=True)
class Spec:
    """A function, and its arguments besides those that the caller passes.

    `function` is `<module>:<name>`. `arguments` are plain data. `files` is the hash of the files of the
    function's package, empty for this package.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    files: str = ""

    @classmethod
    def of(cls, function: Callable[..., Any], **arguments: Any) -> Spec:
        """Return the spec of a function at the top level of a module.

        Raises MethodError for a lambda, a closure or a method, and for arguments that JSON cannot hold.
        """
        name = f"{function.__module__}:{function.__qualname__}"
        if "." in function.__qualname__ or "<" in function.__qualname__:
            raise MethodError(
                f"{name} is not at the top level of its module, so another process cannot find it"
            )
        try:
            canonical_json(arguments)
        except (TypeError, ValueError) as error:
            raise MethodError(f"{name}: its arguments must be plain data: {error}") from None
        return cls(name, arguments, files_hash(function.__module__))

    def resolve(self) -> Callable[..., Any]:
        """Return the function. Raises MethodError if it is missing or its files differ."""
        module, _, name = self.function.partition(":")
        try:
            function: Callable[..., Any] = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise MethodError(f"{self.function} cannot be found here: {error}") from error
        if (here := files_hash(module)) != self.files:
            raise MethodError(
                f"{self.function} differs from the requested one (files {here} here, {self.files} there); "
                "install the same version of its method everywhere"
            )
        return function

    @property
    def call(self) -> Callable[..., Any]:
        """Return the function with its arguments filled in."""
        return partial(self.resolve(), **self.arguments)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, which `Spec(**data)` converts back."""
        return {"function": self.function, "arguments": dict(self.arguments), "files": self.files}


@cache
def files_hash(module: str) -> str:
    """Return `b2:<hex>`, a hash of the Python files of a module's top-level package; empty for this one."""
    top = module.split(".")[0]
    if top == _SHIPPED:
        return ""
    file = getattr(sys.modules.get(top) or import_module(top), "__file__", None)
    if file is None:
        return ""
    path = Path(file)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    digest = hashlib.blake2b(digest_size=16)
    for one in files:
        digest.update(one.relative_to(path.parent).as_posix().encode() + b"\0" + one.read_bytes() + b"\0")
    return f"b2:{digest.hexdigest()}"
