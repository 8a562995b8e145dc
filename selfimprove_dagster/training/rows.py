"""The rows that a training reads, in a file: written as they come, and read one by one.

A row is a dataclass of token ids, text and numbers: `TokenisedExample`, `Comparison` or `TokenisedPrompt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    "bool": pa.bool_(),
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


def write_some(source: Path, target: Path, count: int, max_length: float) -> float:
    """Write `count` rows of a file of `write_rows` to another, in their order, or all if there are fewer.

    Returns the share of the rows that were written.

    Their lengths are evenly spaced among those of all rows. The longest row of at most `max_length` tokens is one of
    them; a comparison is as long as its longer side.
    """
    table = pa.ipc.open_file(pa.memory_map(str(source))).read_all()
    lengths, rows = _lengths(table), max(len(table), 1)
    if count < len(table):
        ordered = np.argsort(lengths, kind="stable")
        fitting = ordered[lengths[ordered] <= max_length]
        middles = ((np.arange(count) + 0.5) * len(table) / count).astype(int)
        chosen = {*ordered[middles].tolist()}
        if len(fitting) and int(fitting[-1]) not in chosen:
            chosen = {*ordered[middles[:-1]].tolist(), int(fitting[-1])}
        table = table.take(sorted(chosen))
    with pa.ipc.new_file(str(target), table.schema) as file:
        file.write_table(table, max_chunksize=BATCH)
    return len(table) / rows or 1.0


def _lengths(table: pa.Table) -> Any:
    """Return the tokens of each row of a file, or of the longer side of each comparison."""
    known = {
        name: pc.list_value_length(table[name]).to_numpy().astype(float)  # NaN where there is no list
        for name in table.column_names
        if pa.types.is_list(table[name].type)
    }
    if "second_token_ids" not in known:
        return sum(known.values())
    first, other = known["prompt_token_ids"], known["second_prompt_token_ids"]
    second = np.where(np.isnan(other), first, other)
    return np.maximum(first + known["first_token_ids"], second + known["second_token_ids"])


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
