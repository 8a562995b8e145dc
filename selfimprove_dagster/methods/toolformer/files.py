"""Plain texts from files, and held-out beginnings with what must follow: good lines go in, bad ones are kept.

The kinds of files are those of `question_files`. A text may have a date, the day on which it was written.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfimprove_dagster.methods.toolformer.settings import TextFile, ToolEvaluationSection
from selfimprove_dagster.rows import Place, Rejected, text_field
from selfimprove_dagster.seeds.files import DUPLICATE, Question, each, read_each, split
from selfimprove_dagster.text import normalise_question


@dataclass(frozen=True)
class SeedText:
    """A text and its place; `date` in ISO 8601, `source` as the file names it."""

    text: str
    date: str | None
    source: str | None
    source_file: str
    source_line: int
    licence: str


@dataclass(frozen=True)
class HeldOutText(Question):
    """A beginning of a text and its `answer`, or a whole plain text without one, as `question`."""

    date: datetime.date | None = None


def read_texts(section: TextFile) -> tuple[list[SeedText], list[Rejected]]:
    """Return all texts of `texts`, and all rejected lines."""
    return split(texts(section))


def texts(section: TextFile) -> Iterator[SeedText | Rejected]:
    """Yield the texts of a source and its rejected lines; a text counts once.

    Raises SeedFileError if a whole file cannot be read.
    """
    path = Path(section.file)

    def parse(row: Any, at: Place) -> SeedText:
        row = {section.text_field: row} if isinstance(row, str) else row
        text = text_field(row, section.text_field)
        if not text:
            raise ValueError("the text is empty")
        if len(text) > section.longest:
            raise ValueError(f"{len(text):,} characters, more than the {section.longest:,} of `longest`")
        date, source = _date(row, section.date_field), _optional(row, section.source_field)
        return SeedText(text, date.isoformat() if date else None, source, at.file, at.line, section.licence)

    return each(path, parse, lambda seed: [(normalise_question(seed.text), DUPLICATE)], section.rows)


def read_beginnings(section: ToolEvaluationSection) -> tuple[list[HeldOutText], list[Rejected]]:
    """The exam's beginnings (`prompt`, `answer`, `date`), and all lines that are none."""
    path = Path(section.file)

    def parse(row: Any, at: Place) -> HeldOutText:
        prompt, answer = text_field(row, "prompt"), text_field(row, "answer")
        if not prompt or not answer:
            raise ValueError("field `prompt` and field `answer` must not be empty")
        difficulty = text_field(row, section.difficulty_field) if section.difficulty_field else None
        return HeldOutText(prompt, at.file, at.line, section.licence, answer, difficulty, _date(row, "date"))

    return read_each(path, parse, lambda one: [(normalise_question(one.question), DUPLICATE)], section.rows)


def read_plain_texts(section: ToolEvaluationSection) -> tuple[list[HeldOutText], list[Rejected]]:
    """The held-out plain texts, and all lines that are none; nothing where the exam has no such file."""
    if section.plain_file is None:
        return [], []
    found, rejected = read_texts(TextFile(file=section.plain_file, licence=section.licence))
    return [
        HeldOutText(one.text, one.source_file, one.source_line, one.licence, date=_as_date(one.date))
        for one in found
    ], rejected


def _date(row: Any, field: str) -> datetime.date | None:
    given = row.get(field) if isinstance(row, Mapping) else None
    if isinstance(given, datetime.datetime):
        return given.date()
    if given is None or given == "" or isinstance(given, datetime.date):
        return given or None
    try:
        return datetime.date.fromisoformat(given)
    except (TypeError, ValueError):
        raise ValueError(f"field `{field}` must be a date as 2024-05-31, not {given!r:.60}") from None


def _as_date(text: str | None) -> datetime.date | None:
    return datetime.date.fromisoformat(text) if text else None


def _optional(row: Any, field: str) -> str | None:
    if not isinstance(row, Mapping) or row.get(field) in (None, ""):
        return None
    return text_field(row, field)
