"""Read rows from files, and keep rejected lines with file, line and reason.

Supported formats are JSON Lines (`.jsonl`, `.ndjson`), JSON (`.json`, an array of objects), CSV with a header
(`.csv`), Parquet (`.parquet`) and plain text with one question per line (`.txt`). Lines are numbered from 1;
elements of a JSON array and rows of a table count as lines.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.errors import SeedFileError

EXCERPT = 200
"""Number of characters of a rejected line that are kept."""


@dataclass(frozen=True)
class Rejected:
    """A rejected line."""

    source_file: str
    source_line: int
    reason: str
    excerpt: str


def file_name(path: Path) -> str:
    """Return the file's name as stored in tables: bytes that are not UTF-8 become `�`."""
    return os.fsencode(path.name).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Unreadable:
    """A line that cannot be parsed, and the reason."""

    reason: str
    excerpt: str


def rejection(path: Path, line: int, row: Any, error: ValueError) -> Rejected:
    """Return the rejected line with the error as the reason."""
    excerpt = row.excerpt if isinstance(row, Unreadable) else _shown(row)
    return Rejected(file_name(path), line, _whole(str(error)), _whole(excerpt[:EXCERPT]))


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield line numbers and parsed rows; a line that cannot be parsed is `Unreadable`.

    Raises SeedFileError if the whole file cannot be read.
    """
    readers = {
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json_array,
        ".csv": _csv,
        ".parquet": _parquet,
        ".txt": _text_lines,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SeedFileError(f"{path}: this file format is not supported; use one of {', '.join(readers)}")
    try:
        yield from reader(path)
    except FileNotFoundError:
        raise SeedFileError(f"there is no file {path}; give an existing file") from None
    except OSError as error:
        raise SeedFileError(f"{path} cannot be read: {error.strerror or error}") from None


def _decoded_lines(path: Path) -> Iterator[tuple[int, str | Unreadable]]:
    with path.open("rb") as stream:
        for line, raw in enumerate(stream, start=1):
            if line == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                yield line, raw.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                shown = raw.decode("utf-8", errors="replace").strip()
                reason = f"not UTF-8 at byte {error.start} of the line; save it as UTF-8"
                yield line, Unreadable(reason, shown)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for line, text in _decoded_lines(path):
        if isinstance(text, Unreadable):
            yield line, text
            continue
        if not text:
            yield line, Unreadable("empty line", "")
            continue
        try:
            yield line, json.loads(text)
        except (
            ValueError,
            RecursionError,
        ) as error:  # ValueError: not JSON, or a number with too many digits
            yield line, Unreadable(f"not JSON: {error}", text)


def _text_lines(path: Path) -> Iterator[tuple[int, Any]]:
    yield from _decoded_lines(path)


def _json_array(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SeedFileError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, list):
        raise SeedFileError(f"{path} must contain a JSON array of objects, not one {type(data).__name__}")
    yield from enumerate(data, start=1)


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SeedFileError(f"{path} is not UTF-8 (line {line}); save it as UTF-8") from None
    csv.field_size_limit(
        max(csv.field_size_limit(), len(text))
    )  # text that is too long is rejected by `longest`
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            if None in row:
                reason = "more cells than the header names; put text that holds commas in double quotes"
                yield reader.line_num, Unreadable(reason, _shown(list(row.values())))
            else:
                yield reader.line_num, row
    except csv.Error as error:
        raise SeedFileError(f"{path} is not CSV (line {reader.line_num}): {error}") from None


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        frame = pl.read_parquet(path, hive_partitioning=False, glob=False)
    except pl.exceptions.PolarsError as error:
        raise SeedFileError(f"{path} is not Parquet: {error}") from None
    yield from enumerate(frame.iter_rows(named=True), start=1)


def _row_bounds(rows: str | None) -> tuple[int, int | None]:
    """Return the first row of `from:to` and the row after the last, None for no end."""
    if rows is None:
        return 0, None
    first, last = rows.split(":")
    return int(first or 0), int(last) if last else None


def text_field(row: Any, field: str) -> str:
    """Return a field's text without outer white space. Raises ValueError if it is missing or not text."""
    if not isinstance(row, Mapping):
        raise ValueError(f"an object with a field `{field}` is needed, not {type(row).__name__}")
    if field not in row:
        raise ValueError(f"there is no field `{field}`; the fields are: {', '.join(map(str, row)) or 'none'}")
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"field `{field}` must be text, not {type(value).__name__}")
    text = str(value).strip()
    if text in ("NaN", "nan"):
        raise ValueError(
            f"field `{field}` is NaN, which stands for a missing value; fill it in, or leave out the line"
        )
    if _whole(text) != text:
        raise ValueError(f"field `{field}` holds half of a surrogate pair, which is no character")
    if "\0" in text:
        raise ValueError(f"field `{field}` holds a NUL character; if the file is UTF-16, save it as UTF-8")
    return text


def _whole(text: str) -> str:
    """Return the text with `?` for each lone surrogate, which cannot be encoded."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _shown(row: Any) -> str:
    try:
        return str(row)
    except RecursionError:
        return f"{type(row).__name__}, nested too deeply to show"
