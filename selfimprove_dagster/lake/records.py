"""Define records and activities: the rows of the lake, and how their ids are computed.

A record is immutable. Its row contains its lineage, so that there is no second write that could disagree with
the first:

    id            `<tag>:<hex>`, which identifies the occurrence: a hash of stage, content, sorted parents, activity
                  and sample index. Anyone can recompute it.
    content_hash  `b2:<hex>`, which identifies the content: a hash of the content columns only.
    parents       the records it was made from, each with its role (prompt, demonstration, voted_from, …).
    activity_id   the materialisation that made it.
    sample_index  its index among its siblings (0 if it has none).

An *activity* (a term of W3C PROV) is one materialisation of one stage. Its id hashes what determines the
output (inputs, model, parameters, seed, code version), but no run ids, times or machines. Therefore a resumed
run and an uninterrupted one give the same ids.

There are two kinds of columns. *Content* columns are hashed. *Measures* (log-probabilities, times, scores
that are computed from content) are protected only by the file checksums of the manifest, since their last
bits may differ between machines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from selfimprove_dagster.table import PARENT, Row, Table


@dataclass(frozen=True, slots=True)
class Parent:
    """An edge of lineage: another record was made from the record `id`, in the role `role`."""

    id: str
    role: str


@dataclass(frozen=True)
class Activity:
    """A materialisation of a stage in one partition.

    `inputs` are the activity ids of the partitions that were read, and `parameters` all settings that affect
    the output. `about` holds other useful facts (engine, Dagster run id, times, token counts), which are not
    part of the id.
    """

    table: str
    partition: Mapping[str, str]
    code_version: str
    parameters: Mapping[str, Any]
    seed: int
    inputs: tuple[str, ...] = ()
    model_id: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Return `act:<hex>`, a hash of everything except `about`."""
        return "act:" + _digest(
            {
                "table": self.table,
                "partition": dict(self.partition),
                "code_version": self.code_version,
                "parameters": self.parameters,
                "seed": self.seed,
                "inputs": sorted(self.inputs),
                "model_id": self.model_id,
            }
        )

    def to_json(self) -> Row:
        """Return plain data, as stored in a manifest, with parameters in JSON form (tuples as lists)."""
        return {
            "id": self.id,
            "table": self.table,
            "partition": dict(self.partition),
            "code_version": self.code_version,
            "parameters": json.loads(canonical_json(self.parameters)),
            "seed": self.seed,
            "inputs": list(self.inputs),
            "model_id": self.model_id,
            "about": dict(self.about),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Activity:
        """Invert `to_json`."""
        return cls(
            table=data["table"],
            partition=data["partition"],
            code_version=data["code_version"],
            parameters=data["parameters"],
            seed=data["seed"],
            inputs=tuple(data["inputs"]),
            model_id=data["model_id"],
            about=data["about"],
        )


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON of a value: sorted keys, no spaces, UTF-8. NaN and infinities are refused."""
    return _ENCODER.encode(value).encode("utf-8", errors="surrogatepass")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, set, frozenset)):
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
)


def _digest(value: Any) -> str:
    return hashlib.blake2b(canonical_json(value), digest_size=16).hexdigest()


def content_hash(content: Mapping[str, Any]) -> str:
    """Return `b2:` and the blake2b-128 of the content's canonical JSON."""
    return "b2:" + _digest(content)


def record_id(
    tag: str, content_digest: str, parents: Iterable[Parent], activity_id: str, sample_index: int = 0
) -> str:
    """Return `<tag>:<hex>` from tag, content hash, parents (in any order), activity and sample index."""
    edges = sorted((parent.id, parent.role) for parent in parents)
    return f"{tag}:" + _digest([tag, content_digest, edges, activity_id, sample_index])


@dataclass(frozen=True, slots=True)
class Draft:
    """A record before it has an id."""

    content: Mapping[str, Any]
    parents: Sequence[Parent] = ()
    measures: Mapping[str, Any] = field(default_factory=dict)
    sample_index: int = 0


Drafts = Iterable[Draft] | pl.DataFrame
"""Rows without ids: drafts, or a frame with the columns of the schema and `parents`; `sample_index` is 0 where the
frame has none."""


def parents_of(**roles: str) -> pl.Expr:
    """The column `parents` of a frame of drafts: one parent in each of the columns, by its role.

    `parents_of(path_id="scored")` is the row's `path_id` in the role `scored`.
    """
    parts = [
        pl.struct(pl.col(column).alias("id"), pl.lit(role).alias("role")) for column, role in roles.items()
    ]
    return pl.concat_list(parts).alias("parents")


def build_records(schema: Table, drafts: Drafts, activity: Activity) -> pl.DataFrame:
    """Compute the ids of drafts and return them as a frame with the schema's columns.

    A frame takes about half the time of a `Draft` per row (benchmarks/results/record_ids.md).

    A draft may leave out measures that are `later` ones of the schema, which are then null. Raises KeyError if it
    lacks another column or has an extra one, and ValueError with the name of the column if a value does not fit its
    type: the stored value must be the hashed one.
    """
    if isinstance(drafts, pl.DataFrame):
        frame, texts = _checked(schema, drafts), None
    else:
        frame, texts = _frame(schema, list(drafts))
    hashes = _hashes("b2:", _content_texts(schema, frame) if texts is None else texts)
    frame = frame.with_columns(content_hash=hashes, activity_id=pl.lit(activity.id))
    return frame.with_columns(id=_record_ids(schema.tag, frame)).select(schema.polars.keys())


def recompute_ids(schema: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Recompute the columns `id` and `content_hash` of the rows of `frame`, in their order."""
    frame = frame.with_columns(content_hash=_hashes("b2:", _content_texts(schema, frame)))
    return pl.DataFrame({"id": _record_ids(schema.tag, frame), "content_hash": frame["content_hash"]})


# ---- drafts to columns --------------------------------------------------------------------------------


def _checked(schema: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame of drafts after checking the names and types of its columns."""
    if "sample_index" not in frame.columns:
        frame = frame.with_columns(sample_index=pl.lit(0, pl.Int32))
    absent = sorted(schema.later.difference(frame.columns))
    frame = frame.with_columns(pl.lit(None, schema.polars[name]).alias(name) for name in absent)
    given = set(schema.polars) - {"id", "content_hash", "activity_id"}
    if set(frame.columns) != given:
        raise KeyError(
            f"columns of {schema.name} do not match its schema: {sorted(given ^ set(frame.columns))}"
        )
    for name, dtype in frame.schema.items():
        if dtype != schema.polars[name]:
            raise ValueError(f"column {name} of {schema.name}: {dtype} where {schema.polars[name]} is due")
    for name in ("parents", "sample_index"):
        if frame[name].has_nulls():
            raise ValueError(f"column {name} of {schema.name}: a value is missing")
    return frame


def _frame(schema: Table, drafts: Sequence[Draft]) -> tuple[pl.DataFrame, Sequence[bytes] | None]:
    """Return the columns of the drafts, and the JSON of their contents if columns cannot give it."""
    contents = [draft.content for draft in drafts]
    measures = [draft.measures for draft in drafts]
    for rows, columns_of_rows in ((contents, schema.content), (measures, schema.measures)):
        for names in set(map(tuple, rows)):
            if wrong := (columns_of_rows.keys() ^ set(names)) - schema.later.difference(names):
                raise KeyError(f"columns of {schema.name} do not match its schema: {sorted(wrong)}")
    values: dict[str, list[Any]] = {
        "sample_index": [draft.sample_index for draft in drafts],
        **{name: list(map(itemgetter(name), contents)) for name in schema.content},
        **{name: [row.get(name) for row in measures] for name in schema.measures},
    }
    columns: dict[str, pl.Series] = {}
    by_column = all(map(_has_column_json, schema.content.values()))
    texts = None if by_column else [canonical_json(content) for content in contents]
    for name in values:
        try:
            columns[name] = _series(values[name], schema.polars[name])
        except _UNUSUAL:
            if name in schema.content and texts is None:
                texts = [canonical_json(content) for content in contents]
            columns[name] = _series_by_arrow(schema, name, values[name])
    columns["parents"] = _parents_series(schema, [draft.parents for draft in drafts])
    return pl.DataFrame(columns), texts


_UNUSUAL = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""Errors that `_series` raises for values that need `_series_by_arrow`."""


def _series(values: Sequence[Any], dtype: Any) -> pl.Series:
    """Return a column of plain values: lists or tuples, dicts with all fields, text, booleans, numbers, None.

    Raises one of `_UNUSUAL` for other values, for which the slower `_series_by_arrow` decides whether they
    fit. Polars would store True as 1, and round integers that a float cannot represent.
    """
    if isinstance(dtype, pl.List):
        types = set(map(type, values))
        if not types <= {list, tuple, NoneType}:
            raise TypeError("a list is neither a list nor a tuple")
        items = _items(values, dtype.inner, lambda part: _series(part, dtype.inner))
        if NoneType not in types:
            return _lists(items, list(map(len, values)))
        return _lists(items, [len(value or ()) for value in values], [value is None for value in values])
    if isinstance(dtype, pl.Struct):
        if not set(map(len, values)) <= {len(dtype.fields)}:
            raise TypeError("a struct lacks a field or has one too many")
        return pl.DataFrame(
            [
                _series(list(map(itemgetter(field.name), values)), field.dtype).alias(field.name)
                for field in dtype.fields
            ]
        ).to_struct()
    first = next((value for value in values if value is not None), None)
    if not isinstance(first, (str, int, float, NoneType)):  # Polars would unwrap an Enum
        raise TypeError(f"{type(first).__name__} in a column of {dtype}")
    series = pl.Series(values, dtype=dtype, strict=True)
    if dtype.is_integer():
        numbers = series.to_numpy()
        if any(isinstance(values[row], bool) for row in np.flatnonzero((numbers == 0) | (numbers == 1))):
            raise TypeError(f"a boolean in a column of {dtype}")
    if dtype.is_float():
        large = np.flatnonzero(np.abs(series.to_numpy()) >= 2**24)
        if any(isinstance(values[row], int) for row in large):
            raise TypeError(f"a large integer in a column of {dtype}")
    return series


def _items(
    lists: Iterable[Sequence[Any] | None], dtype: Any, column: Callable[[list[Any]], pl.Series]
) -> pl.Series:
    """Return the items of all lists in one column, made by `column` from parts that fit a processor's cache.

    Every part is read several times; in whole columns, each reading would wait for the main memory.
    """
    size = _CACHED_ITEMS // (len(dtype.fields) if isinstance(dtype, pl.Struct) else 1)
    parts: list[pl.Series] = []
    items: list[Any] = []
    for values in lists:
        if values:
            items += values
            if len(items) > size:
                parts.append(column(items))
                items = []
    return pl.concat([*parts, column(items)]) if parts else column(items)


_CACHED_ITEMS = 2**14


def _series_by_arrow(schema: Table, name: str, values: Sequence[Any]) -> pl.Series:
    """Return a column built with Arrow, which, unlike Polars, never drops or casts an unfit value."""
    dtype = schema.polars[name]
    arrow = pl.DataFrame(schema={name: dtype}).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    try:
        array = pa.array(values, type=arrow.field(name).type)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"column {name} of {schema.name}: {error}") from error
    return pl.Series(name, array, dtype=dtype)


def _parents_series(schema: Table, parents: Sequence[Sequence[Parent]]) -> pl.Series:
    """Return the column `parents` of rows with the given parents."""

    def column(edges: list[Parent]) -> pl.Series:
        ids = _series([edge.id for edge in edges], pl.String)
        roles = _series([edge.role for edge in edges], pl.String)
        return pl.DataFrame({"id": ids, "role": roles}).to_struct()

    try:
        edges = _items(parents, PARENT, column)
    except _UNUSUAL:
        rows = [[{"id": edge.id, "role": edge.role} for edge in parents_of_row] for parents_of_row in parents]
        return _series_by_arrow(schema, "parents", rows)
    return _lists(edges, list(map(len, parents)))


def _lists(
    items: pl.Series, lengths: Sequence[int] | npt.NDArray[np.int64], nulls: Sequence[bool] | None = None
) -> pl.Series:
    """Group consecutive items into lists of the given lengths, with a null where `nulls` is true.

    NumPy and Arrow have less overhead per call than expressions of Polars, which matters for short tables.
    """
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    arrow = items.to_arrow(compat_level=pl.CompatLevel.newest())  # the oldest would copy texts
    mask = None if nulls is None else pa.array(nulls, type=pa.bool_())
    lists = pa.LargeListArray.from_arrays(pa.array(ends), arrow, mask=mask)
    return pl.Series(lists, dtype=pl.List(items.dtype))


# ---- ids: columns to canonical JSON to hashes ---------------------------------------------------------


def _content_texts(schema: Table, frame: pl.DataFrame) -> Iterator[bytes]:
    """Yield the canonical JSON of the content of each row, in slices that bound the memory for the texts.

    Polars writes the JSON of whole columns. Its floats differ (Python: 1e-05, Polars: 0.00001), so a table
    with floats is encoded row by row.
    """
    content = frame.select(sorted(schema.content))
    if not all(map(_has_column_json, content.dtypes)):
        yield from map(canonical_json, content.iter_rows(named=True))
        return
    columns = [pl.col(name).cast(_sorted_keys(dtype)) for name, dtype in content.schema.items()]
    for rows in content.iter_slices(1 + content.height * _SLICE_BYTES // int(content.estimated_size() + 1)):
        texts = rows.select(pl.struct(columns).struct.json_encode().cast(pl.Binary))
        yield from texts.to_series().to_list()


_SLICE_BYTES = 2**24


def _has_column_json(dtype: Any) -> bool:
    """Return whether Polars writes the values of a type in the same way as `canonical_json`."""
    if isinstance(dtype, pl.List):
        return _has_column_json(dtype.inner)
    if isinstance(dtype, pl.Struct):
        return all(_has_column_json(field.dtype) for field in dtype.fields)
    return dtype in (pl.String, pl.Boolean) or dtype.is_integer()


def _sorted_keys(dtype: Any) -> Any:
    """Return the type with the fields of its structs in the order of canonical JSON."""
    if isinstance(dtype, pl.List):
        return pl.List(_sorted_keys(dtype.inner))
    if isinstance(dtype, pl.Struct):
        fields = {field.name: _sorted_keys(field.dtype) for field in dtype.fields}
        return pl.Struct(dict(sorted(fields.items())))
    return dtype


def _record_ids(tag: str, frame: pl.DataFrame) -> pl.Series:
    """Return the `record_id` of each row of `frame`, which has the hashed columns."""
    parents = frame["parents"].to_arrow(compat_level=pl.CompatLevel.newest())
    lengths = parents.value_lengths().to_numpy()
    edges = pl.Series(parents.flatten(), dtype=PARENT).struct.unnest()
    if lengths.max(initial=0) > 1:
        edges = edges.with_columns(pl.Series("row", np.repeat(np.arange(len(lengths)), lengths)))
        edges = edges.sort("row", "id", "role")
    pairs = edges.select(pl.concat_arr("id", "role")).to_series()
    texts = frame.with_columns(_lists(pairs, lengths).alias("parents")).select(
        pl.concat_str(
            pl.lit("[" + canonical_json(tag).decode() + ',"'),
            pl.col("content_hash"),
            pl.lit('",'),
            _json_text("parents"),
            pl.lit(","),
            _json_text("activity_id"),
            pl.lit(","),
            pl.col("sample_index").cast(pl.String),
            pl.lit("]"),
        ).cast(pl.Binary)
    )
    return _hashes(f"{tag}:", texts.to_series().to_list())


def _json_text(column: str) -> pl.Expr:
    """Return the JSON of each value of a column. Polars encodes only structs, so their braces are removed."""
    structs = pl.struct(pl.col(column).alias(""))
    return structs.struct.json_encode().str.strip_prefix('{"":').str.strip_suffix("}")


def _hashes(prefix: str, texts: Iterable[bytes]) -> pl.Series:
    """Return the prefix and the hexadecimal blake2b-128 of each text."""
    hashes = []
    for text in texts:
        digest = _BLAKE2B_128.copy()  # faster than creating a new one
        digest.update(text)
        hashes.append(prefix + digest.hexdigest())
    return pl.Series(hashes, dtype=pl.String)


_BLAKE2B_128 = hashlib.blake2b(digest_size=16)
