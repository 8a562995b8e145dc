"""Make text of models safe to show: it may contain escape codes, markup and layout tricks."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from selfimprove_dagster.conversation import shown

_SPACE = re.compile(r"\s+")


def one_line(text: str) -> str:
    """Return the text with each run of white space replaced by one space."""
    return _SPACE.sub(" ", text).strip()


def normalise_question(text: str) -> str:
    """Return the text in lower case with collapsed white space. Equal results mean equal questions."""
    return " ".join(text.split()).lower()


_ESCAPE_SEQUENCES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC: titles, links
    r"|[\x1b][PX^_].*?(?:\x1b\\|$)"  # device control and other strings
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|\x1b[ -/]*[0-~]?",
    re.DOTALL,
)


# Control characters, and those that reorder or hide text: bidirectional marks, zero-width characters,
# fillers, variation selectors, tags.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff\ud800-\udfff]"
)


_LINE_BREAKS = re.compile("\r\n|[\n\r\v\f\x85\u2028\u2029]")


_MARKS = 4
"""Maximum number of accents that a letter keeps; more would cover the lines above."""


def plain(text: str, limit: int | None = None) -> str:
    """Return the text on one line, without escape sequences, control or invisible characters or stacked
    accents.

    Line breaks become `⏎`. Text longer than `limit` characters is truncated and ends with `…`. A stored
    conversation is shown message by message.
    """
    text = _ESCAPE_SEQUENCES.sub("", shown(text))
    text = _LINE_BREAKS.sub("⏎", text).replace("\t", " ")
    text = _INVISIBLE.sub("", text)
    if limit is not None and len(text) > limit:
        text = text[: max(0, limit - 1)] + "…"
    return text if text.isascii() else _without_heaps(text)


def _without_heaps(text: str) -> str:
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= _MARKS:
            kept.append(character)
    return "".join(kept)


def readable(text: str, limit: int | None = None) -> str:
    """Return the text with its line breaks, without escape sequences, control and invisible characters.

    A stored conversation is shown message by message.
    """
    text = shown(text)
    cut = text if limit is None or len(text) <= limit else text[:limit] + "…"
    return "\n".join(plain(line) for line in cut.replace("\r\n", "\n").splitlines())


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as a percentage; a dash where nothing was measured (None, or not finite)."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}%}"


def markdown_table(rows: Sequence[Mapping[str, Any]], limit: int = 200) -> str:
    """Return a Markdown table of the rows with the columns of all rows; empty if there are no rows.

    Text is put into code spans, where Markdown, HTML and addresses have no effect, so it is shown literally.
    Only `|` is replaced by `¦`, since it would end the table cell even there.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not columns:
        return ""
    header = "| " + " | ".join(code_span(column, limit) for column in columns) + " |"
    rule = "|" + " --- |" * len(columns)
    lines = ("| " + " | ".join(_cell(row.get(column), limit) for column in columns) + " |" for row in rows)
    return "\n".join((header, rule, *lines))


def _cell(value: Any, limit: int) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    if isinstance(value, (bool, int)):
        return str(value)
    return code_span(value if isinstance(value, str) else str(value), limit)


def code_span(text: str, limit: int = 200) -> str:
    """Return the text in a Markdown code span, whose fence is longer than any backticks inside."""
    text = plain(text, limit).replace("|", "¦")
    if not text.strip():
        return f"`'{text}'`"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def plural(noun: str) -> str:
    """Return the plural of an English noun: `query` → `queries`, `class` → `classes`, `texts` → `texts`.

    Of `group of shouts`, the first noun changes.
    """
    first, of, rest = noun.partition(" of ")
    if of:
        return f"{plural(first)}{of}{rest}"
    if noun.endswith("s") and not noun.endswith("ss"):
        return noun
    if noun.endswith(("ss", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"
