"""Read questions from files. Valid lines are imported; rejected ones are kept with file, line and reason.

Supported formats are JSON Lines (`.jsonl`, `.ndjson`), JSON (`.json`, an array of objects), CSV with a header
(`.csv`), Parquet (`.parquet`) and plain text with one question per line (`.txt`). Lines are numbered from 1;
elements of a JSON array and rows of a table count as lines.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from selfimprove_dagster.answers.answers import true_answer
from selfimprove_dagster.answers.languages import DEFAULT, Conventions
from selfimprove_dagster.rows import (
    Rejected,
    Unreadable,
    _row_bounds,
    file_name,
    read_rows,
    rejection,
    text_field,
)
from selfimprove_dagster.seeds.settings import HeldOutQuestionFile, QuestionFile
from selfimprove_dagster.text import normalise_question

DUPLICATE = "duplicate of line {}"
"""Reason for rejecting a line that repeats an earlier one."""


Read = TypeVar("Read")


@dataclass(frozen=True)
class Question:
    """A question and its source; `answer` is canonical and only read from evaluation files."""

    question: str
    source_file: str
    source_line: int
    licence: str
    answer: str | None = None
    difficulty: str | None = None


def read_questions(
    source: QuestionFile, conventions: Conventions = DEFAULT
) -> tuple[list[Question], list[Rejected]]:
    """Return all questions of a file, and all rejected lines. An unchanged file is read once.

    `conventions` say how the answers of an evaluation file are written.

    Raises SeedFileError if the whole file cannot be read: it is missing, of an unknown format, or its content
    does not match its extension.
    """
    path = Path(source.file)
    try:
        state = path.stat()
    except OSError:
        return _read_questions(source, conventions)
    key = repr((source, conventions)), state.st_mtime_ns, state.st_size
    if key not in _READ:
        while len(_READ) >= _MOST_READ:
            _READ.pop(next(iter(_READ)))
        _READ[key] = _read_questions(source, conventions)
    found, rejected = _READ[key]
    return list(found), list(rejected)


_READ: dict[tuple[str, int, int], tuple[list[Question], list[Rejected]]] = {}
"""Cache of file contents, by settings and state of the file."""


_MOST_READ = 4


def _read_questions(source: QuestionFile, conventions: Conventions) -> tuple[list[Question], list[Rejected]]:
    return read_each(
        Path(source.file),
        lambda row, line: _question(row, line, source, conventions),
        lambda question: [(normalise_question(question.question), DUPLICATE)],
        source.rows,
    )


def read_each(
    path: Path,
    parse: Callable[[Any, int], Read],
    keys: Callable[[Read], Iterable[tuple[Hashable, str]]],
    rows: str | None = None,
) -> tuple[list[Read], list[Rejected]]:
    """Parse each line (within `rows`, given as `from:to`). Return the results and the rejected lines.

    A line is rejected if `parse` raises ValueError, or if it has the key of an earlier line. `keys` maps each
    key to the reason to report in this case, in which `{}` is the earlier line. Raises SeedFileError if the
    whole file cannot be read.
    """
    found: list[Read] = []
    rejected: list[Rejected] = []
    lines: dict[Hashable, int] = {}
    first, last = _row_bounds(rows)
    for line, row in islice(read_rows(path), first, last):
        try:
            if isinstance(row, Unreadable):
                raise ValueError(row.reason)
            one = parse(row, line)
            named = list(keys(one))
            for key, reason in named:
                if key in lines:
                    raise ValueError(reason.format(lines[key]))
        except ValueError as error:
            rejected.append(rejection(path, line, row, error))
            continue
        lines.update(dict.fromkeys((key for key, _ in named), line))
        found.append(one)
    return found, rejected


def _question(row: Any, line: int, source: QuestionFile, conventions: Conventions) -> Question:
    name = file_name(Path(source.file))
    fields = [source.question_field] if isinstance(source.question_field, str) else source.question_field
    if isinstance(row, str):  # a line of plain text is the question, whatever the field settings are
        row, fields = {"the line": row}, ["the line"]
    text = " ".join(text_field(row, field) for field in fields)
    if not text.strip():
        raise ValueError("the question is empty")
    if len(text) > source.longest:
        raise ValueError(f"{len(text):,} characters, more than the {source.longest:,} of `longest`")
    answer = difficulty = None
    if isinstance(source, HeldOutQuestionFile):
        raw = text_field(row, source.answer_field)
        answer = true_answer(raw, conventions)
        if answer is None:
            raise ValueError(f"no answer can be read from field `{source.answer_field}`: {raw[:80]!r}")
        if source.difficulty_field:
            difficulty = text_field(row, source.difficulty_field)
    return Question(text, name, line, source.licence, answer, difficulty)
