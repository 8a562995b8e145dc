"""Read questions from files. Valid lines are imported; rejected ones are kept with file, line and reason.

The formats are those of `rows`. Rows are read as they are needed: `each` and `questions` hold none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from selfimprove_dagster.answers.answers import true_answer
from selfimprove_dagster.answers.languages import DEFAULT, Conventions
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.rows import (
    Place,
    Rejected,
    Unreadable,
    file_name,
    files_of,
    is_on_hub,
    read_rows,
    rejection,
    row_bounds,
    text_field,
    value_at,
)
from selfimprove_dagster.seeds.messages import LISTS, listed, turns_in
from selfimprove_dagster.seeds.settings import HeldOutQuestionFile, QuestionFile
from selfimprove_dagster.text import normalise_question

DUPLICATE = "duplicate of {}"
"""Reason for rejecting a line that repeats an earlier one."""


Read = TypeVar("Read")


@dataclass(frozen=True)
class Question:
    """A question and its source.

    `answer` is canonical if an evaluation file has it, and as the file has it for a seed (`seeds.answer_field`).
    """

    question: str
    source_file: str
    source_line: int
    licence: str
    answer: str | None = None
    difficulty: str | None = None


def source_name(source: Path) -> str:
    """Return the name of a source as stored in tables; see `rows`."""
    return str(source) if is_on_hub(source) else file_name(source)


def source_checksum(source: Path) -> str:
    """Return `b2:` and a hash of what a source holds, which for one file is that of its bytes.

    A data set on the Hub is identified by its commit. Raises SeedFileError if the source is missing.
    """
    if is_on_hub(source):
        return content_hash({"data_set": str(source)})
    try:
        files = {name: file_checksum(path) for name, path in files_of(source).items()}
    except FileNotFoundError:
        raise SeedFileError(f"there is no file {source}; give an existing file") from None
    except OSError as error:
        raise SeedFileError(f"{source} cannot be read: {error.strerror or error}") from None
    return next(iter(files.values())) if source.is_file() else content_hash(files)


def read_questions(
    source: QuestionFile, conventions: Conventions = DEFAULT
) -> tuple[list[Question], list[Rejected]]:
    """Return all questions of a source, and all rejected lines. An unchanged source is read once.

    `conventions` say how the answers of an evaluation file are written.

    Raises SeedFileError if a whole file cannot be read: it is missing, of an unknown format, or its content
    does not match its extension.
    """
    path = Path(source.file)
    try:
        states = [] if is_on_hub(path) else [one.stat() for one in files_of(path).values()]
    except OSError:
        return split(questions(source, conventions))
    key = repr((source, conventions)), *((state.st_mtime_ns, state.st_size) for state in states)
    if key not in _READ:
        while len(_READ) >= _MOST_READ:
            _READ.pop(next(iter(_READ)))
        _READ[key] = split(questions(source, conventions))
    found, rejected = _READ[key]
    return list(found), list(rejected)


_READ: dict[tuple[Any, ...], tuple[list[Question], list[Rejected]]] = {}
"""Cache of file contents, by settings and state of the files."""


_MOST_READ = 4


def questions(source: QuestionFile, conventions: Conventions = DEFAULT) -> Iterator[Question | Rejected]:
    """Yield the questions and the rejected lines of a source in order. Raises SeedFileError as `read_questions`."""
    return each(
        Path(source.file),
        lambda row, at: _question(row, at, source, conventions),
        lambda question: [(normalise_question(question.question), DUPLICATE)],
        source.rows,
    )


def split(found: Iterable[Any]) -> tuple[list[Any], list[Rejected]]:
    """Return what was read, and the rejected lines."""
    read = []
    rejected: list[Rejected] = []
    for one in found:
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            read.append(one)
    return read, rejected


def read_each(
    path: Path,
    parse: Callable[[Any, Place], Read],
    keys: Callable[[Read], Iterable[tuple[str, str]]],
    rows: str | None = None,
) -> tuple[list[Read], list[Rejected]]:
    """Return all results of `each`, and all rejected lines."""
    return split(each(path, parse, keys, rows))


def each(
    path: Path,
    parse: Callable[[Any, Place], Read],
    keys: Callable[[Read], Iterable[tuple[str, str]]],
    rows: str | None = None,
) -> Iterator[Read | Rejected]:
    """Parse each row (within `rows`, given as `from:to`), and yield the result or the rejected line.

    A line is rejected if `parse` raises ValueError, or if it has the key of an earlier line. `keys` maps each
    key to the reason to report in this case, in which `{}` is the earlier line. Of earlier lines only hashes of their
    keys are kept. Raises SeedFileError if a whole file cannot be read.
    """
    places: dict[bytes, Place] = {}
    first, last = row_bounds(rows)
    for at, row in islice(read_rows(path), first, last):
        try:
            if isinstance(row, Unreadable):
                raise ValueError(row.reason)
            one = parse(row, at)
            named = [(key_digest(key), reason) for key, reason in keys(one)]
            for key, reason in named:
                if (place := places.get(key)) is not None:
                    raise ValueError(reason.format(_line_of(place, at)))
        except ValueError as error:
            yield rejection(at, row, error)
            continue
        places.update((key, at) for key, _ in named)
        yield one


def key_digest(key: str) -> bytes:
    """Return 16 bytes by which equal keys are known."""
    return blake2b(key.encode("utf-8", errors="surrogatepass"), digest_size=16).digest()


def _line_of(place: Place, seen_from: Place) -> str:
    return f"line {place.line}" if place.file == seen_from.file else f"{place.file}, line {place.line}"


def _asked_in(row: Any, fields: Sequence[str]) -> str:
    """Return what the one user's message of a dialogue asks; empty for rows with one of the fields, or no dialogue.

    Raises ValueError for messages that cannot be read, and for more than one exchange.
    """
    if not isinstance(row, Mapping) or any(value_at(row, field) is not None for field in fields):
        return ""
    name = next((one for one in LISTS if row.get(one) not in (None, "")), None)
    if name is None:
        return ""
    turns = turns_in(listed(row[name], name), name)
    roles = [turn.role for turn in turns]
    if roles not in (["user"], ["user", "assistant"]):
        raise ValueError(
            f"field `{name}` holds {', '.join(roles)}: a question is one message of the user, with at most one answer"
        )
    return text_field({name: turns[0].content}, name)


def _question(row: Any, at: Place, source: QuestionFile, conventions: Conventions) -> Question:
    fields = [source.question_field] if isinstance(source.question_field, str) else source.question_field
    if isinstance(row, str):  # a line of plain text is the question, whatever the field settings are
        row, fields = {"the line": row}, ["the line"]
    text = _asked_in(row, fields) or " ".join(text_field(row, field) for field in fields)
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
    elif source.answer_field and not isinstance(row.get("the line"), str):
        answer = text_field(row, source.answer_field)
        if not answer:
            raise ValueError(f"field `{source.answer_field}` is empty")
    return Question(text, at.file, at.line, source.licence, answer, difficulty)
