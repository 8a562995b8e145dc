"""Find all methods: those of this package, of installed packages, and of the user's folders.

Each is a module with an attribute `METHOD`: a package of `selfimprove_dagster.methods`, an entry point of the
group `selfimprove_dagster.methods`, or a package or module in a folder of `$SELFIMPROVE_METHODS` (several are
separated by `:`). A method that cannot be loaded causes a warning, and all others work. Discovery keeps no
state and does not import torch, since each Dagster step is a new process.
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
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.sections import ModelSection
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.unknown import table_of_files
from selfimprove_dagster.language_model.prompting import TEXT, Prompting, prompting_of
from selfimprove_dagster.method import Method
from selfimprove_dagster.prompts import Prompts, load_prompts
from selfimprove_dagster.shared_tables import REJECTED_SEEDS, REVIEW_LABELS, SEED_ANSWERS, label_sources
from selfimprove_dagster.table import Table
from selfimprove_dagster.work.spec import files_hash

GROUP = "selfimprove_dagster.methods"
FOLDERS = "SELFIMPROVE_METHODS"

_SHARED = (REJECTED_SEEDS, SEED_ANSWERS, REVIEW_LABELS)
"""Tables that belong to no method."""


class MethodWarning(UserWarning):
    """A method was left out because it cannot be used."""


@cache
def methods() -> Mapping[str, Method[Any]]:
    """Return every usable method by name: those of this package, then installed packages, then folders.

    A method that is broken, or whose name or tag is already used, is left out with a `MethodWarning`.
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
        except Exception as error:  # any error of an external module
            warnings.warn(f"the method {origin} was left out: {error}", MethodWarning, stacklevel=2)
            continue
        for table in tables:
            stages.setdefault(table.tag, set()).add(table.stage)
        found[method.name] = method
    return found


def method(name: str) -> Method[Any]:
    """Return the method of that name. Raises MethodError that lists the existing methods."""
    try:
        return methods()[name]
    except KeyError:
        raise MethodError(f"there is no method {name!r}; use one of {', '.join(methods())}") from None


def prompts(experiment: Experiment, model: ModelSection | Prompting | None = None) -> Prompts:
    """Return the prompts of an experiment in the form that a model reads, by default that of `model.path`."""
    asked = (
        model
        if isinstance(model, Prompting)
        else prompting_of(**(model or experiment.model).prompting_options())
    )
    section = experiment.prompts
    shipped = method(experiment.method).prompts
    return load_prompts(shipped, asked, section.file, section.stop, section.structure)


def shipped_prompts(table: Table) -> Prompts:
    """Return the text prompts of a table's method as they are shipped."""
    return load_prompts(method(table.method).prompts, TEXT)


def default_method() -> str:
    """Return the method of experiment files that name none."""
    return next(one.name for one in methods().values() if one.is_default)


@cache
def tables() -> Mapping[str, Table]:
    """Return every table by name: inputs that no stage writes, then the stages' tables in pipeline order."""
    found: dict[str, Table] = {}
    for one in methods().values():
        found.update({table.name: table for table in one.inputs if table.name not in found})
    found[REJECTED_SEEDS.name] = REJECTED_SEEDS
    found[SEED_ANSWERS.name] = SEED_ANSWERS
    for one in methods().values():
        found.update(one.tables)
    found[REVIEW_LABELS.name] = replace(REVIEW_LABELS, sources=label_sources(found.values()))
    return found


def table(name: str) -> Table:
    """Return the table of that name. Raises MethodError if no method has it."""
    try:
        return tables()[name]
    except KeyError:
        raise MethodError(f"there is no table {name!r}: is its method installed?") from None


def table_of(manifest: Manifest) -> Table:
    """Return the table of a partition; if no installed method has it, derive it from its files."""
    return tables().get(manifest.table) or table_of_files(manifest)


def is_drawn(name: str) -> bool:
    """Return whether a model generated the rows of a table and can regenerate them."""
    found = tables().get(name)
    return found is not None and found.draw is not None


@cache
def pipeline_order() -> Mapping[str, int]:
    """Return the position of each table in the order in which tables are made."""
    return {name: position for position, name in enumerate(tables())}


def forget() -> None:
    """Search for methods again at the next call, for tests and for notebooks that develop a method."""
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
            warnings.warn(f"{FOLDERS} names {path}, which is not a folder", MethodWarning, stacklevel=3)
            continue
        if str(path) not in sys.path:
            sys.path.append(str(path))
        for module in pkgutil.iter_modules([str(path)]):

            def load(name: str = module.name) -> Any:
                return _released(import_module(name).METHOD, f"{name}-{files_hash(name)[3:15]}")

            yield str(path / module.name), load


def _released(found: Any, release: str) -> Any:
    """Return a method with the name and version of its package; return anything else unchanged."""
    return replace(found, distribution=release) if isinstance(found, Method) else found
