"""Records, activities, decisions: what a row of the lake is, and how its id is computed.

A record is immutable. Its row carries its whole lineage, so there is no second write that could disagree
with the first:

    id            `<tag>:<hex>`, which occurrence this is: a hash of stage, content, sorted parents, activity
                  and sample index. Anyone can recompute it.
    content_hash  `b2:<hex>`, what it says: a hash of its content columns alone.
    parents       what it was made from, each with the role it played (prompt, demonstration, voted_from, …).
    activity_id   the materialisation that made it.
    sample_index  the how-manieth of its siblings it is (0 where there is but one).

An *activity* is one materialisation of one stage (W3C PROV's word). Its id hashes what determines the
output (inputs, model, parameters, seed, code version) and nothing of run ids, times or machines: a resumed
run and an undisturbed one give the same ids.

Columns are of two sorts. *Content* is what the record says and is hashed. *Measures* stand beside it
(log-probabilities, times, scores that follow from content) and are guarded by the file checksums of the
manifest alone, since their last bits may differ from machine to machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from types import NoneType
from typing import Any

import polars as pl
import pyarrow as pa

from selfimprove_dagster.table import Row, Table


@dataclass(frozen=True)
class Parent:
    """One edge of lineage: the record `id` played `role` in the making of another."""

    id: str
    role: str


@dataclass(frozen=True)
class Activity:
    """One materialisation of one stage in one partition.

    `inputs` are the activity ids of the partitions that were read, `parameters` all settings that shape the
    output. `about` is whatever else is worth keeping (engine, Dagster run id, times, token counts) and takes
    no part in the id.
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
        """`act:<hex>` over everything but `about`."""
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
        """Plain data, as a manifest stores it; the parameters as JSON gives them back (tuples as lists)."""
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
        """The inverse of `to_json`."""
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
    """The one JSON text of a value: sorted keys, no spaces, UTF-8; NaN and infinities are refused."""
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
    """`b2:` and the blake2b-128 of the content's canonical JSON."""
    return "b2:" + _digest(content)


def record_id(
    tag: str, content_digest: str, parents: Iterable[Parent], activity_id: str, sample_index: int = 0
) -> str:
    """`<tag>:<hex>` of stage tag, content hash, parents (in any order), activity and sample index."""
    edges = sorted((parent.id, parent.role) for parent in parents)
    return f"{tag}:" + _digest([tag, content_digest, edges, activity_id, sample_index])


@dataclass(frozen=True)
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
    """Give drafts their ids and lay them out in the schema's columns.

    A frame takes about half the time of a `Draft` per row (benchmarks/results/record_ids.md).

    Raises KeyError when a draft lacks a column of the schema or has one too many, and ValueError naming the
    column when a value does not fit its type: what is stored must be what was hashed.
    """
    if isinstance(drafts, pl.DataFrame):
        frame, texts = _checked(schema, drafts), None
    else:
        frame, texts = _frame(schema, list(drafts))
    hashes = _hashes("b2:", _content_texts(schema, frame) if texts is None else texts)
    frame = frame.with_columns(content_hash=hashes, activity_id=pl.lit(activity.id))
    return frame.with_columns(id=_record_ids(schema.tag, frame)).select(schema.polars.keys())


def recompute_ids(schema: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Columns `id` and `content_hash` computed anew from what the rows of `frame` say, in their order."""
    frame = frame.with_columns(content_hash=_hashes("b2:", _content_texts(schema, frame)))
    return pl.DataFrame({"id": _record_ids(schema.tag, frame), "content_hash": frame["content_hash"]})


# ---- drafts to columns --------------------------------------------------------------------------------


def _checked(schema: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame of drafts, if its columns have the names and types of the schema."""
    if "sample_index" not in frame.columns:
        frame = frame.with_columns(sample_index=pl.lit(0, pl.Int32))
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
    """The columns of the drafts, and the JSON of their contents where the columns cannot give it."""
    contents = [draft.content for draft in drafts]
    measures = [draft.measures for draft in drafts]
    for content, measured in zip(contents, measures, strict=True):
        if content.keys() != schema.content.keys() or measured.keys() != schema.measures.keys():
            wrong = (content.keys() ^ schema.content.keys()) | (measured.keys() ^ schema.measures.keys())
            raise KeyError(f"columns of {schema.name} do not match its schema: {sorted(wrong)}")
    values: dict[str, list[Any]] = {
        "sample_index": [draft.sample_index for draft in drafts],
        **{name: [content[name] for content in contents] for name in schema.content},
        **{name: [measured[name] for measured in measures] for name in schema.measures},
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
"""What `_series` raises for values that need `_series_by_arrow`."""


def _series(values: Sequence[Any], dtype: Any) -> pl.Series:
    """A column of plain values: lists or tuples, dicts with all fields, text, booleans, numbers, None.

    Raises one of `_UNUSUAL` for other values: `_series_by_arrow` decides whether they fit, more slowly.
    Polars alone would store True as 1, and round integers that a float cannot hold.
    """
    if isinstance(dtype, pl.List):
        if not set(map(type, values)) <= {list, tuple, NoneType}:
            raise TypeError("a list is neither a list nor a tuple")
        items: list[Any] = []
        for value in values:
            if value:
                items += value
        lengths = [None if value is None else len(value) for value in values]
        return _lists(_series(items, dtype.inner), lengths)
    if isinstance(dtype, pl.Struct):
        if not set(map(len, values)) <= {len(dtype.fields)}:
            raise TypeError("a struct lacks a field or has one too many")
        return pl.DataFrame(
            [
                _series([value[field.name] for value in values], field.dtype).alias(field.name)
                for field in dtype.fields
            ]
        ).to_struct()
    first = next((value for value in values if value is not None), None)
    if not isinstance(first, (str, int, float, NoneType)):  # Polars would unwrap an Enum
        raise TypeError(f"{type(first).__name__} in a column of {dtype}")
    series = pl.Series(values, dtype=dtype, strict=True)
    if dtype.is_integer() and any(
        isinstance(values[row], bool) for row in series.is_between(0, 1).arg_true()
    ):
        raise TypeError(f"a boolean in a column of {dtype}")
    if dtype.is_float() and any(isinstance(values[row], int) for row in (series.abs() >= 2**24).arg_true()):
        raise TypeError(f"a large integer in a column of {dtype}")
    return series


def _series_by_arrow(schema: Table, name: str, values: Sequence[Any]) -> pl.Series:
    """A column by way of Arrow, which neither drops nor recasts a value that does not fit (Polars does)."""
    dtype = schema.polars[name]
    arrow = pl.DataFrame(schema={name: dtype}).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    try:
        array = pa.array(values, type=arrow.field(name).type)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"column {name} of {schema.name}: {error}") from error
    return pl.Series(name, array, dtype=dtype)


def _parents_series(schema: Table, parents: Sequence[Sequence[Parent]]) -> pl.Series:
    """The column `parents` of rows with the given parents."""
    edges: list[Parent] = []
    for parents_of_row in parents:
        edges += parents_of_row
    try:
        ids = _series([edge.id for edge in edges], pl.String)
        roles = _series([edge.role for edge in edges], pl.String)
    except _UNUSUAL:
        rows = [[{"id": edge.id, "role": edge.role} for edge in parents_of_row] for parents_of_row in parents]
        return _series_by_arrow(schema, "parents", rows)
    return _lists(pl.DataFrame({"id": ids, "role": roles}).to_struct(), list(map(len, parents)))


def _lists(items: pl.Series, lengths: Sequence[int | None]) -> pl.Series:
    """Consecutive items as lists of the given lengths; a length of None makes a null."""
    ends = pa.array(accumulate((length or 0 for length in lengths), initial=0), type=pa.int64())
    nulls = pa.array([length is None for length in lengths], type=pa.bool_())
    lists = pa.LargeListArray.from_arrays(ends, items.to_arrow(), mask=nulls)
    return pl.Series(lists, dtype=pl.List(items.dtype))


# ---- ids: columns to canonical JSON to hashes ---------------------------------------------------------


def _content_texts(schema: Table, frame: pl.DataFrame) -> Iterator[bytes]:
    """The canonical JSON of the content of each row; slices bound the memory that the texts take.

    Polars writes the JSON of whole columns. Floats differ (Python: 1e-05, Polars: 0.00001), so a table that
    has any is encoded row by row.
    """
    content = frame.select(sorted(schema.content))
    if not all(map(_has_column_json, content.dtypes)):
        yield from map(canonical_json, content.iter_rows(named=True))
        return
    columns = [pl.col(name).cast(_sorted_keys(dtype)) for name, dtype in content.schema.items()]
    for rows in content.iter_slices(16_384):
        texts = rows.select(pl.struct(columns).struct.json_encode().cast(pl.Binary))
        yield from texts.to_series().to_list()


def _has_column_json(dtype: Any) -> bool:
    """Whether Polars writes the values of a type as `canonical_json` does."""
    if isinstance(dtype, pl.List):
        return _has_column_json(dtype.inner)
    if isinstance(dtype, pl.Struct):
        return all(_has_column_json(field.dtype) for field in dtype.fields)
    return dtype in (pl.String, pl.Boolean) or dtype.is_integer()


def _sorted_keys(dtype: Any) -> Any:
    """The type with the fields of its structs in the order of canonical JSON."""
    if isinstance(dtype, pl.List):
        return pl.List(_sorted_keys(dtype.inner))
    if isinstance(dtype, pl.Struct):
        fields = {field.name: _sorted_keys(field.dtype) for field in dtype.fields}
        return pl.Struct(dict(sorted(fields.items())))
    return dtype


def _record_ids(tag: str, frame: pl.DataFrame) -> pl.Series:
    """The `record_id` of each row of `frame`, which has the columns that it hashes."""
    edges = frame.select("parents").with_row_index("row").explode("parents", empty_as_null=False)
    edges = edges.unnest("parents").sort("row", "id", "role")
    pairs = edges.select(pl.format("[{},{}]", _json_text("id"), _json_text("role"))).to_series()
    texts = frame.select(
        pl.concat_str(
            pl.lit("[" + canonical_json(tag).decode() + ',"'),
            pl.col("content_hash"),
            pl.lit('",['),
            _lists(pairs, frame["parents"].list.len().to_list()).list.join(","),
            pl.lit("],"),
            _json_text("activity_id"),
            pl.lit(","),
            _json_text("sample_index"),
            pl.lit("]"),
        ).cast(pl.Binary)
    )
    return _hashes(f"{tag}:", texts.to_series().to_list())


def _json_text(column: str) -> pl.Expr:
    """The JSON of each value of a column: Polars encodes structs alone, so their braces are cut off."""
    structs = pl.struct(pl.col(column).alias(""))
    return structs.struct.json_encode().str.strip_prefix('{"":').str.strip_suffix("}")


def _hashes(prefix: str, texts: Iterable[bytes]) -> pl.Series:
    """The prefix and the blake2b-128 of each text, in hexadecimal digits."""
    digests = []
    for text in texts:
        digest = _BLAKE2B_128.copy()  # faster than a new one
        digest.update(text)
        digests.append(digest.digest())
    return prefix + pl.Series(digests, dtype=pl.Binary).bin.encode("hex")


_BLAKE2B_128 = hashlib.blake2b(digest_size=16)
