"""Build a record's ancestry as a graph to draw and as a nested list to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selfimprove_dagster.explorer.methods import pages_of, table_named
from selfimprove_dagster.explorer.shapes import in_words
from selfimprove_dagster.explorer.shown import href, short_id
from selfimprove_dagster.lineage.walk import Walk
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import plain

_LONGEST = 42
"""Maximum length of a label in characters."""


_MOST = 400
"""Maximum number of nodes in a graph."""


_SETS = {"trained_on": "dataset", "judged_by": "evaluation"}
"""Names for a set of rows: role → name."""


def _label(record: str, table: str | None, row: Mapping[str, Any] | None, role: str) -> str:
    """Return the label of a node: its noun and text. A node that is not a row is named by its role."""
    if table is None:
        return _SETS.get(role, "activity") if record.startswith("act:") else f"model {short_id(record)}"
    declared = table_named(table, row or {})
    if row is None:
        return f"{declared.noun} (revoked)"
    return plain(in_words(dict(row), declared), _LONGEST)


@dataclass
class Family:
    """A record with its ancestors; `rows` excludes revoked records."""

    start: str
    walk: Walk
    rows: Mapping[str, Row]
    _tables: dict[str, str | None] = field(init=False)
    _parents: dict[str, list[tuple[str, str]]] = field(init=False)
    _roles: dict[str, str] = field(init=False)
    _names: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._tables = dict(self.walk.nodes.select("id", "table_name").head(_MOST).iter_rows())
        self._roles = dict(self.walk.edges.select("parent", "role").iter_rows())
        self._names = self._known_names()
        self._parents = {}
        for child, parent, role in self.walk.edges.iter_rows():
            if child in self._tables and parent in self._tables:
                self._parents.setdefault(child, []).append((parent, role))

    def _node(self, record: str) -> dict[str, Any]:
        table = self._tables[record]
        row = self.rows.get(record)
        return {
            "id": record,
            "label": self._names.get(record) or _label(record, table, row, self._roles.get(record, "")),
            "kind": table.split("/")[1] if table else "set",
            "href": href(record),
            "here": record == self.start,
            "revoked": table is not None and row is None,
        }

    def _known_names(self) -> dict[str, str]:
        """Return the labels of rows that are stored in other rows, as the methods declare them."""
        declared = (
            pages_of(method).names
            for method in {row["table_name"].split("/")[0] for row in self.rows.values()}
        )
        return {
            record: plain(words, _LONGEST)
            for name in declared
            if name is not None
            for record, words in name(self.rows).items()
        }

    def graph(self) -> dict[str, Any]:
        """Return nodes and edges, from the oldest ancestors to the record."""
        return {
            "nodes": [self._node(record) for record in self._tables],
            "edges": [
                {"source": parent, "target": child, "role": role.replace("_", " ")}
                for child, parents in self._parents.items()
                for parent, role in parents
            ],
        }

    def tree(self) -> dict[str, Any]:
        """Return the graph as nested lists of `node`, `role`, `parents`; a repeated node has no parents."""
        seen: set[str] = set()

        def grow(record: str, role: str) -> dict[str, Any]:
            again = record in seen
            seen.add(record)
            parents = [] if again else [grow(*edge) for edge in self._parents.get(record, [])]
            return {"node": self._node(record), "role": role, "again": again, "parents": parents}

        return grow(self.start, "")
