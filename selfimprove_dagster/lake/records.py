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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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


def build_records(schema: Table, drafts: Iterable[Draft], activity: Activity) -> pl.DataFrame:
    """Give drafts their ids and lay them out in the schema's columns.

    Raises KeyError when a draft lacks a column of the schema or has one too many, and ValueError naming the
    column when a value does not fit its type: what is stored must be what was hashed.
    """
    activity_id = activity.id
    content_names, measure_names = set(schema.content), set(schema.measures)
    rows: list[Row] = []
    for draft in drafts:
        if set(draft.content) != content_names or set(draft.measures) != measure_names:
            wrong = (set(draft.content) ^ content_names) | (set(draft.measures) ^ measure_names)
            raise KeyError(f"columns of {schema.name} do not match its schema: {sorted(wrong)}")
        digest = content_hash(draft.content)
        rows.append(
            {
                "id": record_id(schema.tag, digest, draft.parents, activity_id, draft.sample_index),
                "content_hash": digest,
                "parents": [{"id": parent.id, "role": parent.role} for parent in draft.parents],
                "activity_id": activity_id,
                "sample_index": draft.sample_index,
                **draft.content,
                **draft.measures,
            }
        )
    return _frame(schema, rows)


def _frame(schema: Table, rows: Sequence[Row]) -> pl.DataFrame:
    """The rows by way of Arrow, which neither drops nor recasts a value that does not fit (Polars does)."""
    empty = pl.DataFrame(schema=schema.polars)
    columns = []
    for column in empty.to_arrow(compat_level=pl.CompatLevel.oldest()).schema:
        try:
            values = pa.array([row[column.name] for row in rows], type=column.type)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"column {column.name} of {schema.name}: {error}") from error
        columns.append(pl.Series(column.name, values, dtype=schema.polars[column.name]))
    return pl.DataFrame(columns)


def recompute_ids(schema: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Columns `id` and `content_hash` computed anew from what the rows of `frame` say, in their order."""
    ids, hashes = [], []
    for row in frame.iter_rows(named=True):
        digest = content_hash({name: row[name] for name in schema.content})
        parents = [Parent(edge["id"], edge["role"]) for edge in row["parents"]]
        ids.append(record_id(schema.tag, digest, parents, row["activity_id"], row["sample_index"]))
        hashes.append(digest)
    return pl.DataFrame(
        {"id": ids, "content_hash": hashes}, schema={"id": pl.String, "content_hash": pl.String}
    )
