"""Find filter steps by name: those of this package, of installed packages, and in a user's file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from selfimprove_dagster import own_code
from selfimprove_dagster.filtering.steps import BUILT_IN, COLUMNS, REASONS, Step, renamed
from selfimprove_dagster.filters.rules import Filter

GROUP = "selfimprove_dagster.filters"
"""The entry point group for steps of packages: `short = "my_package.filters:Short"`."""


@dataclass(frozen=True)
class NamedStep:
    """A step of an experiment.

    `name` is its name in the experiment file, and `source` the release or the hash of the file that it comes from,
    empty for a step of this package. `rule` is the rule of its decisions, which no other step of the experiment has.
    """

    rule: str
    name: str
    step: Step
    source: str = field(default="")

    def open(self) -> Filter:
        """Return the filter, which remembers nothing yet."""
        return renamed(self.rule, self.step.open())

    @property
    def recorded(self) -> dict[str, Any]:
        """Return what determines its decisions; the folder of a user's file is no part of it."""
        source = {"source": self.source} if self.source else {}
        name = own_code.without_folder(self.name)
        return {"rule": self.rule, "name": name, "settings": self.step.recorded, **source}

    @property
    def given(self) -> dict[str, Any]:
        """Return name and settings in the form in which an experiment lists them."""
        return {self.name: self.step.model_dump(mode="json")}


def read_steps(
    entries: Sequence[Any],
    provided: frozenset[str] | None = None,
    lacking: Mapping[str, str] = MappingProxyType({}),
) -> list[NamedStep]:
    """Return the steps that a list names, each by name or as `{name: settings}`.

    `provided` are the columns that candidates have besides `steps.COLUMNS`, None for all; `lacking` says why they have
    no others. Raises ValueError that names each wrong step, with its place if there are several: for an unknown name,
    for wrong settings, and for a step that reads columns that candidates do not have.
    """
    found: list[NamedStep] = []
    problems: list[str] = []
    for number, entry in enumerate(entries, start=1):
        try:
            name, settings = named(entry)
            kind, source = step_of(name)
            step = _opened(name, kind, settings, provided, lacking)
        except ValueError as error:
            problems.append(f"filter {number}: {error}" if len(entries) > 1 else str(error))
            continue
        rule = step.name or name.rpartition(":")[2].lower()
        count = sum(one.rule.partition(" ")[0] == rule for one in found)
        found.append(NamedStep(f"{rule} {count + 1}" if count else rule, name, step, source))
    if problems:
        raise ValueError("; ".join(problems))
    return found


def _opened(
    name: str,
    kind: type[Step],
    settings: Mapping[str, Any],
    provided: frozenset[str] | None,
    lacking: Mapping[str, str],
) -> Step:
    try:
        step = kind(**settings)
    except (ValidationError, TypeError) as error:
        raise ValueError(f"{name}: {_complaint(error, kind)}") from None
    missing = frozenset() if provided is None else step.reads - {*COLUMNS, *provided}
    if missing:
        why = next((f": {lacking[one]}" for one in sorted(missing) if one in lacking), "")
        lacks = ", ".join(sorted(missing - REASONS))
        raise ValueError(f"{name} reads {lacks}, which the candidates of this experiment do not have{why}")
    return step


def named(entry: Any) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of an entry. Raises ValueError for another form."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, settings),) = entry.items()
        if isinstance(name, str) and (settings is None or isinstance(settings, Mapping)):
            return name, dict(settings or {})
    raise ValueError(f"{entry!r} is no filter: write its name, or `name: {{setting: value}}`")


def step_of(name: str) -> tuple[type[Step], str]:
    """Return the class of a step, and the release or the hash of the file that it comes from.

    A name is that of a step of this package or of an entry point in `GROUP`, or `my_filters.py:Short`, a class in a
    file. Raises ValueError for an unknown name and for what is no step.
    """
    if name in BUILT_IN:
        return BUILT_IN[name], ""
    if own := own_code.found(name, GROUP):
        return _checked(own[0], name), own[1]
    raise ValueError(
        f"{name!r} is none of {', '.join(known())}; for your own filter give its file and class, e.g. "
        "my_filters.py:Short"
    )


def known() -> Iterator[str]:
    """Yield the names of the steps of this package and of installed ones."""
    yield from BUILT_IN
    yield from own_code.offered(GROUP)


def described() -> Iterator[str]:
    """Yield lines that describe every known step and its settings."""
    for name in known():
        kind, _ = step_of(name)
        reads = f" (reads {', '.join(sorted(kind.reads - REASONS))})" if kind.reads else ""
        needs = f" (extra {kind.extra})" if kind.extra else ""
        yield f"{name}: {(kind.__doc__ or '').partition(chr(10))[0]}{reads}{needs}"
        for setting, about in kind.model_fields.items():
            default = "required" if about.is_required() else about.get_default(call_default_factory=True)
            yield f"    {setting} ({default}): {about.description or ''}"


def _checked(found: Any, name: str) -> type[Step]:
    if isinstance(found, type) and issubclass(found, Step):
        return found
    if found is None:
        path, _, attribute = name.rpartition(":")
        raise ValueError(f"{path} has no class {attribute}; correct the name, or add the class to the file")
    raise ValueError(f"{name} is no filter: it must be a subclass of selfimprove_dagster.filtering.Step")


def _complaint(error: ValidationError | TypeError, kind: type[Step]) -> str:
    if isinstance(error, TypeError):
        return str(error)
    lines = []
    for detail in error.errors(include_url=False):
        place = ".".join(map(str, detail["loc"]))
        if detail["type"] == "extra_forbidden":
            lines.append(f"there is no setting {place}; there are {', '.join(kind.model_fields) or 'none'}")
        elif detail["type"] == "missing":
            lines.append(f"the setting {place} is missing")
        else:
            said = f"{detail['msg'].removeprefix('Value error, ')}, not {detail['input']!r}"
            lines.append(f"{place}: {said}" if place else said)
    return "; ".join(lines)
