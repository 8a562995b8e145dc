"""Find the fields of an experiment that name files and models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic.fields import FieldInfo

from selfimprove_dagster.experiment.sections import NamesPath, Section

Mark = TypeVar("Mark")


def mark_of(field: FieldInfo, kind: type[Mark]) -> Mark | None:
    """Return the mark of that kind on a field, or on one of its possible types."""
    inner = (mark for one in get_args(field.annotation) for mark in getattr(one, "__metadata__", ()))
    return next((mark for mark in (*field.metadata, *inner) if isinstance(mark, kind)), None)


def fields_of(section: Section, prefix: str = "") -> Iterator[tuple[str, Section, str]]:
    """Yield every field of a section and of those in it: its dotted name, its own section, and its name there.

    Elements of lists and of dictionaries are sections in `name.0` and `name.key`.
    """
    for name in type(section).model_fields:
        value = getattr(section, name)
        yield f"{prefix}{name}", section, name
        inner = {"": value}
        if isinstance(value, list | tuple):
            inner = {f".{at}": one for at, one in enumerate(value)}
        elif isinstance(value, Mapping):
            inner = {f".{key}": one for key, one in value.items()}
        for key, one in inner.items():
            if isinstance(one, Section):
                yield from fields_of(one, f"{prefix}{name}{key}.")


def paths_of(section: Section) -> Iterator[tuple[str, str, NamesPath]]:
    """Yield every text of a section that names a file or a model: its field, the text, and the field's mark."""
    for where, owner, name in fields_of(section):
        mark = mark_of(type(owner).model_fields[name], NamesPath)
        if mark is not None:
            yield from ((where, text, mark) for text in _texts(getattr(owner, name)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        yield from (one for one in value if isinstance(one, str))
    elif isinstance(value, Mapping):
        yield from (one for one in value.values() if isinstance(one, str))
