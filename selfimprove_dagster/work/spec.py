"""Work that may run in another process: a function by name, with plain arguments.

A shard's work, a reward or a training job is handed on as a `Spec`, never as a closure, so that a worker on
another machine can run the very same function. Where the function belongs to a method that was not shipped with the
package, the spec carries a hash of that method's files, and a worker whose files differ refuses it.
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
    """A function and the arguments that it is called with besides what the caller hands it.

    `function` is `<module>:<name>`. `arguments` are plain data. `files` is the hash of the files of the function's
    package, empty for what ships with this package.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    files: str = ""

    @classmethod
    def of(cls, function: Callable[..., Any], **arguments: Any) -> Spec:
        """The spec of a function at the top level of a module.

        Raises MethodError for a lambda, a closure or a method, and for arguments that JSON cannot hold.
        """
        name = f"{function.__module__}:{function.__qualname__}"
        if "." in function.__qualname__ or "<" in function.__qualname__:
            raise MethodError(
                f"{name} is not at the top level of its module, so no other process can find it"
            )
        try:
            canonical_json(arguments)
        except (TypeError, ValueError) as error:
            raise MethodError(f"{name}: its arguments must be plain data: {error}") from None
        return cls(name, arguments, files_hash(function.__module__))

    def resolve(self) -> Callable[..., Any]:
        """The function itself. Raises MethodError where it is missing or its files differ."""
        module, _, name = self.function.partition(":")
        try:
            function: Callable[..., Any] = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise MethodError(f"{self.function} cannot be found here: {error}") from error
        if (here := files_hash(module)) != self.files:
            raise MethodError(
                f"{self.function} differs from the one that was asked for (files {here} here, {self.files} "
                "there); install the same version of its method everywhere"
            )
        return function

    @property
    def call(self) -> Callable[..., Any]:
        """The function with its arguments filled in."""
        return partial(self.resolve(), **self.arguments)

    def to_json(self) -> dict[str, Any]:
        """Plain data, from which `Spec(**data)` makes it again."""
        return {"function": self.function, "arguments": dict(self.arguments), "files": self.files}


@cache
def files_hash(module: str) -> str:
    """`b2:<hex>` over the Python files of a module's top-level package; empty for the shipped package."""
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
