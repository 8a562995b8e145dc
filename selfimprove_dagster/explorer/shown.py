"""Values as a page shows them. Jinja escapes markup; here text loses what could hide or reorder it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, FunctionLoader, StrictUndefined

from selfimprove_dagster.text import plain, plural, readable

LONGEST = 4_000
"""Characters of one text that a page shows; the rest is behind a link."""


def figure(value: Any) -> str:
    """A number in a table: counts with separators, others to four digits; a dash for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.1%}"


def anything(value: Any, limit: int = 300) -> str:
    """Any value of a row or a setting on one line."""
    if value is None:
        return "none"
    if isinstance(value, (bool, int, float)):
        return figure(value)
    return plain(value if isinstance(value, str) else str(value), limit)


def short_id(record: str) -> str:
    """The beginning of an id, enough to recognise it."""
    tag, _, digest = record.partition(":")
    return plain(f"{tag}:{digest[:8]}", 24)


def href(record: str) -> str:
    """Address of a record's page."""
    return "/records/" + quote(record, safe=":")


def environment(templates: str) -> Environment:
    """Jinja over the folder of templates: everything escaped, a misspelt name an error.

    Templates of methods are named by their absolute path.
    """
    jinja = Environment(
        loader=ChoiceLoader([FileSystemLoader(templates), FunctionLoader(_of_a_method)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters.update(
        line=plain,
        plural=plural,
        readable=readable,
        figure=figure,
        percent=percent,
        anything=anything,
        short_id=short_id,
        href=href,
    )
    return jinja


def _of_a_method(name: str) -> str | None:
    """The text of a template that a method declares by its path; None where there is no such file."""
    path = Path(name)
    return path.read_text(encoding="utf-8") if path.is_absolute() and path.is_file() else None
