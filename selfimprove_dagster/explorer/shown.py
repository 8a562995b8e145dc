"""Format values for pages. Jinja escapes markup; this module removes characters that hide or reorder text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, FunctionLoader, StrictUndefined

from selfimprove_dagster.text import percent, plain, plural, readable

LONGEST = 4_000
"""Maximum number of characters of a text on a page; the full text is behind a link."""


def figure(value: Any) -> str:
    """Format a number: counts with separators, others to four digits, and a dash for None."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def anything(value: Any, limit: int = 300) -> str:
    """Format any value of a row or setting on one line."""
    if value is None:
        return "none"
    if isinstance(value, (bool, int, float)):
        return figure(value)
    return plain(value if isinstance(value, str) else str(value), limit)


def short_id(record: str) -> str:
    """Return the start of an id, long enough to recognise it."""
    tag, _, digest = record.partition(":")
    return plain(f"{tag}:{digest[:8]}", 24)


def href(record: str) -> str:
    """Return the address of a record's page."""
    return "/records/" + quote(record, safe=":")


def environment(templates: str) -> Environment:
    """Return a Jinja environment for the folder of templates. It escapes everything; undefined names are
    errors.

    Templates of methods are given by their absolute path.
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
    """Return the text of a template that a method declares by its path; None if the file does not exist."""
    path = Path(name)
    return path.read_text(encoding="utf-8") if path.is_absolute() and path.is_file() else None
