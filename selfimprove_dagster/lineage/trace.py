"""Trace where a record comes from: its ancestry as a tree, and the model that wrote its text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.walk import Lineage, Walk

GENERATED_BY = "generated_by"
"""Role of the model that wrote a record. It is not followed further, since its ancestry is whole datasets."""


@dataclass
class Ancestor:
    """A record of the ancestry: its content, its activity, and its parents.

    `columns` are the row's columns without the lineage columns; `activity` is the plain data of its activity
    (model, seed, parameters). Nodes that are not rows (a dataset as a set, a base model) have the table "". A
    revoked row keeps its place and its parents, but `revoked` is all that is reported about it.
    """

    id: str
    role: str
    table: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    activity: Mapping[str, Any] = field(default_factory=dict)
    parents: list[Ancestor] = field(default_factory=list)
    revoked: bool = False

    def unfolded(self) -> Iterator[tuple[int, Ancestor, bool]]:
        """Yield the tree depth first: the depth, the record, and whether it was yielded before.

        A record is expanded only the first time.
        """
        seen: set[str] = set()
        ahead = [(0, self)]
        while ahead:
            depth, ancestor = ahead.pop()
            above = ancestor.id in seen
            yield depth, ancestor, above
            if not above:
                seen.add(ancestor.id)
                ahead += [(depth + 1, parent) for parent in reversed(ancestor.parents)]

    def to_json(self) -> dict[str, Any]:
        """Return the tree as plain data; a repeated record has no columns, activity or parents."""
        way: list[dict[str, Any]] = []
        for depth, ancestor, above in self.unfolded():
            node = {**_plain(ancestor, above), "parents": []}
            del way[depth:]
            if way:
                way[-1]["parents"].append(node)
            way.append(node)
        return way[0]

    def json_text(self) -> str:
        """Return the tree as JSON, one record per line. Unlike `json.dumps`, it supports any depth."""
        lines: list[str] = []
        opened = 0
        for depth, ancestor, above in self.unfolded():
            if depth < opened:
                lines[-1] += "]}" * (opened - depth) + ","
            fields = json.dumps(_plain(ancestor, above)).removesuffix("}")
            lines.append(" " * depth + fields + ', "parents": [')
            opened = depth + 1
        return "\n".join(lines) + "]}" * opened


def _plain(ancestor: Ancestor, above: bool) -> dict[str, Any]:
    return {
        "id": ancestor.id,
        "role": ancestor.role,
        "table": ancestor.table,
        "revoked": ancestor.revoked,
        "above": above,
        "columns": {} if above else dict(ancestor.columns),
        "activity": {} if above else dict(ancestor.activity),
    }


def trace(lake: Lake, prefix: str) -> Ancestor:
    """Return the ancestry of a record as a tree: each parent is listed under every child that names it.

    A record that closes a (forged) cycle is named but not expanded.
    """
    lineage = Lineage(lake)

    def answer() -> Ancestor:
        start = lineage.find(prefix).id
        walk = lineage.ancestors([start])
        return _Tree(lineage, walk).grown(start)

    return lineage.steadily(answer)


class _Tree:
    """Assembles ancestors; all occurrences of a record in the tree share one list of parents."""

    def __init__(self, lineage: Lineage, walk: Walk) -> None:
        rows = walk.nodes.drop_nulls("table_name")
        self._tables: dict[str, str] = dict(rows.select("id", "table_name").iter_rows())
        self._rows = lineage.rows(self._tables)
        withdrawn = walk.edges.filter(~pl.col("child").is_in(list(self._rows)))
        self._edges_of_withdrawn = withdrawn.rows_by_key("child", named=True)
        self._checkpoints = self._generators(lineage)
        self._parents: dict[str, list[Ancestor]] = {}

    def _generators(self, lineage: Lineage) -> dict[str, str]:
        """Return, by model id, the record of each checkpoint of the lake that wrote one of the rows."""
        written = {row["activity"]["model_id"] for row in self._rows.values() if _is_generated(row)}
        found: dict[str, str] = {}
        for manifest in lineage.snapshot.manifests if written else ():
            if registry.table_of(manifest).holds_model:
                for record, model in lineage.lake.read_whole(manifest).select("id", "model_id").iter_rows():
                    if model in written:
                        self._tables[found.setdefault(model, record)] = manifest.table
        self._rows |= lineage.rows(found.values())
        return found

    def grown(self, start: str) -> Ancestor:
        """Return the tree above `start`, built depth first; no recursion, since its depth is unlimited."""
        root, path, ahead = self._ancestor(start, ""), {start}, [(start, self._edges(start))]
        while ahead:
            child, edges = ahead[-1]
            for parent, role in edges:
                if parent in path or role == GENERATED_BY:
                    leaf = Ancestor(parent, role, "") if parent in path else self._leaf(parent, role)
                    self._parents[child].append(leaf)
                    continue
                met = parent in self._parents
                self._parents[child].append(self._ancestor(parent, role))
                if not met:
                    path.add(parent)
                    ahead.append((parent, self._edges(parent)))
                    break
            else:
                path.discard(child)
                ahead.pop()
        return root

    def _edges(self, record: str) -> Iterator[tuple[str, str]]:
        row = self._rows.get(record)
        for edge in row["parents"] if row else ():
            yield edge["id"], edge["role"]
        for edge in () if row else self._edges_of_withdrawn.get(record, ()):
            yield edge["parent"], edge["role"]
        if row and _is_generated(row):
            model = row["activity"]["model_id"]
            yield self._checkpoints.get(model, model), GENERATED_BY

    def _ancestor(self, record: str, role: str) -> Ancestor:
        return replace(self._leaf(record, role), parents=self._parents.setdefault(record, []))

    def _leaf(self, record: str, role: str) -> Ancestor:
        row = self._rows.get(record)
        table = self._tables.get(record, "")
        if row is None:
            return Ancestor(record, role, table, revoked=record in self._tables)
        columns = {key: value for key, value in row.items() if key not in _LINEAGE_COLUMNS}
        return Ancestor(record, role, table, columns, row["activity"])


_LINEAGE_COLUMNS = ("id", "content_hash", "parents", "activity_id", "activity", "table_name")


def _is_generated(row: Mapping[str, Any]) -> bool:
    return registry.is_drawn(row["table_name"]) and row["activity"]["model_id"] is not None
