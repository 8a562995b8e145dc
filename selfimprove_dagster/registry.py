"""The methods that there are: the shipped ones, installed packages, and folders of one's own.

All come in by one door: a module with an attribute `METHOD`. It is found in a package of `selfimprove_dagster.methods`,
behind an entry point of the group `selfimprove_dagster.methods`, or as a package or module in a folder that
`$SELFIMPROVE_METHODS` names (several are separated by `:`). A method that cannot be loaded is one warning, and all
others work. Discovery keeps no state and imports no torch, since each Dagster step is a new process.
"""

from __future__ import annotations

import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import MethodError
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.unknown import table_of_files
from selfimprove_dagster.method import Method
from selfimprove_dagster.shared_tables import REJECTED_SEEDS, REVIEW_LABELS, label_sources
from selfimprove_dagster.table import Table
from selfimprove_dagster.work.spec import files_hash

GROUP = "selfimprove_dagster.methods"
FOLDERS = "SELFIMPROVE_METHODS"

_SHARED = (REJECTED_SEEDS, REVIEW_LABELS)
"""Tables that belong to no method."""


class MethodWarning(UserWarning):
    """A method was found and left out, since it cannot be used."""


@cache
def methods() -> Mapping[str, Method[Any]]:
    """Every usable method by name: the shipped ones first, then installed packages, then folders.

    A method that is broken, or takes a name or tag that another one has, is left out with a `MethodWarning`.
    """
    found: dict[str, Method[Any]] = {}
    stages: dict[str, set[str]] = {}
    for origin, load in (*_shipped(), *_installed(), *_in_folders()):
        try:
            method = load()
            if not isinstance(method, Method):
                raise MethodError(f"it is {type(method).__name__}, not a Method")
            method.check()
            if method.name in found:
                raise MethodError(f"the name {method.name} is taken")
            tables = (*_SHARED, *method.inputs, *method.tables.values())
            for table in tables if method.distribution else ():
                if table.stage not in (of := stages.get(table.tag, {table.stage})):
                    raise MethodError(
                        f"the tag {table.tag} of {table.name} is that of {', '.join(sorted(of))}"
                    )
        except Exception as error:  # whatever a stranger's module raises
            warnings.warn(f"the method {origin} was left out: {error}", MethodWarning, stacklevel=2)
            continue
        for table in tables:
            stages.setdefault(table.tag, set()).add(table.stage)
        found[method.name] = method
    return found


def method(name: str) -> Method[Any]:
    """The method of that name. Raises MethodError naming those that there are."""
    try:
        return methods()[name]
    except KeyError:
        raise MethodError(f"there is no method {name!r}; there are {', '.join(methods())}") from None


def default_method() -> str:
    """The method of experiment files that name none."""
    return next(one.name for one in methods().values() if one.is_default)


@cache
def tables() -> Mapping[str, Table]:
    """Every table by name: what methods read and no stage writes first, then the stages' in pipeline order."""
    found: dict[str, Table] = {}
    for one in methods().values():
        found.update({table.name: table for table in one.inputs if table.name not in found})
    found[REJECTED_SEEDS.name] = REJECTED_SEEDS
    for one in methods().values():
        found.update(one.tables)
    found[REVIEW_LABELS.name] = replace(REVIEW_LABELS, sources=label_sources(found.values()))
    return found


def table(name: str) -> Table:
    """The table of that name. Raises MethodError where no method has it."""
    try:
        return tables()[name]
    except KeyError:
        raise MethodError(f"no table is called {name!r}: is its method installed?") from None


def table_of(manifest: Manifest) -> Table:
    """The table of a partition; where no installed method has it, as its files show it."""
    return tables().get(manifest.table) or table_of_files(manifest)


def is_drawn(name: str) -> bool:
    """Whether a model drew the rows of a table and can draw them again. Of an unknown table nobody knows."""
    found = tables().get(name)
    return found is not None and found.draw is not None


@cache
def pipeline_order() -> Mapping[str, int]:
    """The position of each table in the order in which the tables are made."""
    return {name: position for position, name in enumerate(tables())}


def forget() -> None:
    """Look for methods anew at the next call: for tests and for notebooks in which a method is being written."""
    for remembered in (methods, tables, pipeline_order, files_hash):
        remembered.cache_clear()


Load = Callable[[], Any]


def _shipped() -> Iterator[tuple[str, Load]]:
    for module in pkgutil.iter_modules([str(Path(__file__).with_name("methods"))]):

        def load(name: str = f"{__package__}.methods.{module.name}") -> Any:
            return import_module(name).METHOD

        yield module.name, load


def _installed() -> Iterator[tuple[str, Load]]:
    for point in entry_points(group=GROUP):
        release = f"{point.dist.name}-{point.dist.version}" if point.dist else point.value

        def load(point: Any = point, release: str = release) -> Any:
            return _released(point.load(), release)

        yield f"{point.name} of {release}", load


def _in_folders() -> Iterator[tuple[str, Load]]:
    for folder in filter(None, os.environ.get(FOLDERS, "").split(os.pathsep)):
        path = Path(folder).expanduser().absolute()
        if not path.is_dir():
            warnings.warn(f"{FOLDERS} names {path}, which is no folder", MethodWarning, stacklevel=3)
            continue
        if str(path) not in sys.path:
            sys.path.append(str(path))
        for module in pkgutil.iter_modules([str(path)]):

            def load(name: str = module.name) -> Any:
                return _released(import_module(name).METHOD, f"{name}-{files_hash(name)[3:15]}")

            yield str(path / module.name), load


def _released(found: Any, release: str) -> Any:
    """A method with the name and version of what it came with; anything else as it is, to be refused."""
    return replace(found, distribution=release) if isinstance(found, Method) else found
