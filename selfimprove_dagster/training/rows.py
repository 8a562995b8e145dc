"""The rows that a training reads, in a file: written as they come, and read one by one.

A row is a dataclass of token ids, text and numbers: `TokenisedExample`, `Comparison` or `TokenisedPrompt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, overload

import pyarrow as pa

from selfimprove_dagster.host import delete_left, temporary_path

Item = TypeVar("Item")
Row = TypeVar("Row")

BATCH = 1024
"""Rows that are tokenised, written or read together."""

_TYPES = {
    "list[int]": pa.list_(pa.int32()),
    "list[int] | None": pa.list_(pa.int32()),
    "float": pa.float64(),
    "str": pa.string(),
}


def batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in lists of `BATCH`, the last one shorter."""
    left = iter(items)
    while batch := [*islice(left, BATCH)]:
        yield batch


def write_rows(path: Path, kind: type[Any], rows: Iterable[Any]) -> None:
    """Write rows of the dataclass `kind` to an Arrow file, a batch at a time, by rename."""
    schema = pa.schema([(one.name, _TYPES[str(one.type)]) for one in fields(kind)])
    path.parent.mkdir(parents=True, exist_ok=True)
    delete_left(path)
    temporary = temporary_path(path)
    with pa.ipc.new_file(str(temporary), schema) as file:
        for batch in batched(rows):
            file.write_batch(pa.RecordBatch.from_pylist([*map(vars, batch)], schema))
    temporary.replace(path)


class RowFile(Sequence[Row], Generic[Row]):
    """The rows of a file that `write_rows` wrote, mapped into memory and made when they are asked for."""

    def __init__(self, path: str | Path, kind: type[Row]) -> None:
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._kind = kind

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[Row]:
        for batch in self._table.to_batches(max_chunksize=BATCH):
            yield from self._rows(batch)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[one] for one in range(len(self))[index]]
        (row,) = self._rows(self._table.slice(range(len(self))[index], 1))
        return row

    def _rows(self, table: pa.Table | pa.RecordBatch) -> Iterator[Row]:
        make = cast(Any, self._kind)
        return (make(**row) for row in table.to_pylist())
