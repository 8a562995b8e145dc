"""Read rows from files, and keep rejected lines with file, line and reason.

Supported formats are JSON Lines (`.jsonl`, `.ndjson`), JSON (`.json`, an array of objects, also as the one list of an
object such as `{"data": [...]}`), CSV (with commas or semicolons) and TSV with a header
(`.csv`, `.tsv`), Parquet (`.parquet`) and plain text with one question per line (`.txt`). All but Parquet may be
compressed (`.gz`, `.zst`). Lines are numbered from 1; elements of a JSON array and rows of a table count as lines.

A source is one file, a folder, a pattern such as `shards/*.jsonl.gz`, or a data set of the Hugging Face Hub
(`hf:owner/name/split@commit`; see `hub_rows`). Rows are read as they are needed, so a source may be larger than memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

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


class Place(NamedTuple):
    """The place of a row: its file, as stored in tables, and its line."""

    file: str
    line: int


def file_name(path: Path) -> str:
    """Return the file's name as stored in tables: bytes that are not UTF-8 become `�`."""
    return _stored(path.name)


def _stored(name: str) -> str:
    return os.fsencode(name).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Unreadable:
    """A line that cannot be parsed, and the reason."""

    reason: str
    excerpt: str


def rejection(at: Place, row: Any, error: ValueError) -> Rejected:
    """Return the rejected line with the error as the reason."""
    excerpt = row.excerpt if isinstance(row, Unreadable) else _shown(row)
    return Rejected(at.file, at.line, _whole(str(error)), _whole(excerpt[:EXCERPT]))


def files_of(source: Path) -> dict[str, Path]:
    """Return the files of a source by their names in tables, sorted.

    A file in a folder, or one that a pattern finds, has its path below the folder as its name. Raises SeedFileError if
    there are none.
    """
    if source.is_dir():
        root, found = source, source.rglob("*")
    elif source.exists() or not _WILD.search(str(source)):
        return {file_name(source): source}
    else:
        fixed = next(at for at, part in enumerate(source.parts) if _WILD.search(part))
        root = Path(*source.parts[:fixed])
        found = root.glob(str(Path(*source.parts[fixed:])))
    files = {
        _stored(path.relative_to(root).as_posix()): path
        for path in sorted(found)
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }
    if source.is_dir():  # which may hold a licence or notes, too
        files = {name: path for name, path in files.items() if _format_of(path) in _READERS}
    if not files:
        raise SeedFileError(f"{source}: there is no file to read; supported are {', '.join(_READERS)}")
    return files


def read_rows(source: Path) -> Iterator[tuple[Place, Any]]:
    """Yield the places and parsed rows of a source; a line that cannot be parsed is `Unreadable`.

    Raises SeedFileError if a whole file cannot be read.
    """
    if is_on_hub(source):
        from selfimprove_dagster.hub_rows import HubDataset

        for line, row in enumerate(HubDataset.of(str(source)).rows(), start=1):
            yield Place(str(source), line), row
        return
    for name, path in files_of(source).items():
        for line, row in _read_file(path):
            yield Place(name, line), row


def read_plain_text(path: Path) -> str:
    """Return the text of a file. Raises SeedFileError if it cannot be read, is not UTF-8, or has white space only."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SeedFileError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise SeedFileError(f"{path} cannot be read: {error.strerror or error}") from None
    if not text.strip():
        raise SeedFileError(f"{path} is empty; give a file with a text")
    return text


def check_source(source: Path) -> None:
    """Raise SeedFileError if a source names nothing that can be read. The Hub is not asked."""
    if is_on_hub(source):
        from selfimprove_dagster.hub_rows import HubDataset

        HubDataset.of(str(source))
    elif not all(path.is_file() for path in files_of(source).values()):
        raise SeedFileError(f"there is no file {source}; correct the path, or add the file")


def is_on_hub(source: Path | str) -> bool:
    """Return whether a source is a data set of the Hugging Face Hub."""
    return str(source).startswith("hf:")


def _read_file(path: Path) -> Iterator[tuple[int, Any]]:
    reader = _READERS.get(_format_of(path))
    if reader is None:
        raise SeedFileError(
            f"{path}: this file format is not supported; use one of {', '.join(_READERS)}, all but Parquet also with "
            ".gz or .zst"
        )
    try:
        with _opened(path) as stream:
            if reader is not _parquet and cast(Any, stream).peek(2)[:2] in _UTF_16:
                raise SeedFileError(f"{path} is UTF-16; save it as UTF-8")
            yield from reader(path, stream)
    except FileNotFoundError:
        raise SeedFileError(f"there is no file {path}; give an existing file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SeedFileError(f"{path} is not gzip, or is cut off: {error}") from None
    except OSError as error:
        if path.suffix.lower() == ".zst" and error.errno is None:  # Arrow gives no code
            raise SeedFileError(f"{path} is not Zstandard, or is cut off: {error}") from None
        raise SeedFileError(f"{path} cannot be read: {error.strerror or error}") from None


def _format_of(path: Path) -> str:
    """Return the suffix of a file's format, without that of its compression."""
    whole = path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path
    compressed = whole is not path
    return "" if compressed and whole.suffix.lower() == ".parquet" else whole.suffix.lower()


def _opened(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed."""
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if path.suffix.lower() == ".zst":
        import pyarrow as pa

        return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 1 << 20))
    return path.open("rb", buffering=1 << 20)


def _decoded_lines(stream: BinaryIO) -> Iterator[tuple[int, str | Unreadable]]:
    for line, raw in enumerate(stream, start=1):
        if line == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            yield line, raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            shown = raw.decode("utf-8", errors="replace").strip()
            reason = f"not UTF-8 at byte {error.start} of the line; save it as UTF-8"
            yield line, Unreadable(reason, shown)


def _json_lines(path: Path, stream: BinaryIO) -> Iterator[tuple[int, Any]]:
    for line, text in _decoded_lines(stream):
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


def _text_lines(path: Path, stream: BinaryIO) -> Iterator[tuple[int, Any]]:
    yield from _decoded_lines(stream)


def _json_array(path: Path, stream: BinaryIO) -> Iterator[tuple[int, Any]]:
    text = _Json(io.TextIOWrapper(stream, encoding="utf-8-sig"))
    try:
        if text.next_mark() != "[":
            yield from enumerate(_listed_in(text.value(), path), start=1)
            return
        text.skip()
        line = 0
        while text.next_mark() != "]":
            if line:
                text.expect(",")
            line += 1
            yield line, text.value()
        text.skip()
        if text.next_mark():
            raise ValueError("there is more after the end of the array")
    except (ValueError, RecursionError) as error:
        raise SeedFileError(f"{path} is not JSON: {error}") from None


def _listed_in(value: Any, path: Path) -> Sequence[Any]:
    """Return the rows of an object that holds them in one list. Raises SeedFileError for anything else."""
    lists = (
        [value[name] for name in _LISTS if isinstance(value.get(name), list)]
        if isinstance(value, dict)
        else []
    )
    if len(lists) == 1:
        found: list[Any] = lists[0]
        return found
    raise SeedFileError(
        f"{path} must contain a JSON array of objects, not one {type(value).__name__}: write the rows as `[…]`, one "
        f"object a line in a file .jsonl, or one list in a field {', '.join(f'`{name}`' for name in _LISTS)}"
    )


class _Json:
    """JSON text that is read value by value."""

    def __init__(self, stream: io.TextIOBase) -> None:
        self._stream, self._text, self._at, self._ended = stream, "", 0, False

    def _more(self) -> bool:
        """Read on, each time as much again as there is, so that a long value is parsed a few times only."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        if len(rest) > _LONGEST_VALUE:
            raise ValueError(f"one value has more than {_LONGEST_VALUE:,} characters")
        found = self._stream.read(max(1 << 20, len(rest)))
        self._text, self._at, self._ended = rest + found, 0, not found
        return not self._ended

    def next_mark(self) -> str:
        """Return the next character that is no white space, empty at the end."""
        while True:
            self._at = _SPACES.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Pass over one character."""
        self._at += 1

    def expect(self, mark: str) -> None:
        """Pass over this character and the space after it. Raises ValueError if another one is next."""
        if (found := self.next_mark()) != mark:
            raise ValueError(f"{mark!r} is missing before {found!r}" if found else "the text is cut off")
        self.skip()
        self.next_mark()

    def value(self) -> Any:
        """Return the next value. Raises ValueError if it is not JSON."""
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
            except ValueError:
                if self._more():
                    continue
                raise
            if end == len(self._text) and self._more():
                continue  # a number may go on
            self._at = end
            return found


_LISTS = ("data", "rows", "examples", "items", "records", "train")
"""Fields of an object in which published JSON files hold their rows."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""How a file in UTF-16 begins."""

_DECODER = json.JSONDecoder()
_SPACES = re.compile(r"[ \t\n\r]*")
_LONGEST_VALUE = 1 << 28
_WILD = re.compile(r"[*?\[]")


def _csv(path: Path, stream: BinaryIO) -> Iterator[tuple[int, Any]]:
    yield from _table(path, stream, ",")


def _tsv(path: Path, stream: BinaryIO) -> Iterator[tuple[int, Any]]:
    yield from _table(path, stream, "\t")


def _table(path: Path, stream: BinaryIO, delimiter: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(
        max(csv.field_size_limit(), _LONGEST_VALUE)
    )  # `longest` rejects text that is too long
    name = "CSV" if delimiter == "," else "TSV"

    def lines() -> Iterator[str]:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        for number, line in enumerate(text, start=1):
            if not line.isascii() and _whole(line) != line:
                raise SeedFileError(f"{path} is not UTF-8 (line {number}); save it as UTF-8")
            yield line

    rows = lines()
    try:
        header = next(rows, "")
        if delimiter == "," and "," not in header and ";" in header:
            delimiter = ";"  # as spreadsheets save CSV where numbers have a decimal comma
        reader = csv.DictReader(chain([header] if header else [], rows), delimiter=delimiter)
        for row in reader:
            if None in row:
                marks = {",": "commas", ";": "semicolons"}.get(delimiter, "tabs")
                reason = f"more cells than the header names; put text that holds {marks} in double quotes"
                yield reader.line_num, Unreadable(reason, _shown(list(row.values())))
            else:
                yield reader.line_num, row
    except csv.Error as error:
        raise SeedFileError(f"{path} is not {name} (line {reader.line_num}): {error}") from None


def _parquet(path: Path, stream: BinaryIO) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        batches = parquet.ParquetFile(stream).iter_batches(_ROWS_OF_A_BATCH)
        frames = (pl.from_arrow(pa.Table.from_batches([batch])) for batch in batches)
        rows = (row for frame in frames for row in frame.iter_rows(named=True))  # type: ignore[union-attr]
        yield from enumerate(rows, start=1)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SeedFileError(f"{path} is not Parquet: {error}") from None


_ROWS_OF_A_BATCH = 10_000

_READERS: dict[str, Callable[[Path, BinaryIO], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_array,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _text_lines,
}


def row_bounds(rows: str | None) -> tuple[int, int | None]:
    """Return the first row of `from:to` and the row after the last, None for no end."""
    if rows is None:
        return 0, None
    first, last = rows.split(":")
    return int(first or 0), int(last) if last else None


def value_at(row: Any, field: str) -> Any:
    """Return the value of a field, None if there is none.

    `a.b.0.c` is the field `c` of the first element of the list `b` in `a`, unless a field has this name as a whole.
    """
    if isinstance(row, Mapping) and field in row:
        return row[field]
    for part in field.split("."):
        if isinstance(row, Mapping) and part in row:
            row = row[part]
        elif isinstance(row, Sequence) and not isinstance(row, str) and _INDEX.fullmatch(part):
            at = int(part)
            if not -len(row) <= at < len(row):
                return None
            row = row[at]
        else:
            return None
    return row


_INDEX = re.compile(r"-?\d{1,9}")


def with_first_instance(row: Any) -> Any:
    """Return a row in Self-Instruct's form as one with the `input` and the `output` of its first instance.

    Rows without `instances`, and those with an `input` or an `output` of their own, stay as they are.
    """
    if not isinstance(row, Mapping) or row.get("input") or row.get("output"):
        return row
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances or not isinstance(instances[0], Mapping):
        return row
    return {**row, **{name: instances[0].get(name) for name in ("input", "output")}}


def text_field(row: Any, field: str) -> str:
    """Return a field's text without outer white space. Raises ValueError if it is missing or not text.

    The field may be within others; see `value_at`.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"an object with a field `{field}` is needed, not {type(row).__name__}")
    value = row[field] if field in row else value_at(row, field)
    if value is None and field not in row:
        raise ValueError(f"there is no field `{field}`; the fields are: {', '.join(map(str, row)) or 'none'}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"field `{field}` must be text, not {type(value).__name__}")
    text = str(value).strip()
    if text in ("NaN", "nan"):
        raise ValueError(
            f"field `{field}` is NaN, which stands for a missing value; fill it in, or leave out the line"
        )
    if not text.isascii() and _whole(text) != text:
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
