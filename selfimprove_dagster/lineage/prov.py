"""Export lineage in the terms of W3C PROV (PROV-DM), as PROV-JSON.

    record        entity, of type `table:<table>`, with its columns
    dataset       entity `set:<hex>` of type prov:Collection: all rows that one activity made
    activity      activity with start and end time, code version, parameters; `used` the sets that it read
    model         agent with which the activity was associated; also an entity if a record names it
    parent        wasDerivedFrom, of type `role:<role>` (PROV-DM reserves prov:role for usages and the like)
    revocation    activity of a person that invalidated the revoked records

Record ids are qualified names: their tags serve as prefixes. A set lists its members if a record names it as
its parent, as a checkpoint does. The same lake always gives the same text, one statement per line.

The package `prov` can also write this, and it reads equal documents from both texts. Only the tests use it,
since an export with it takes 3.4 times the CPU time (6.2 s instead of 1.8 s for 36,062 statements,
`benchmarks/prov_export.py`), with 222 lines of code instead of 238.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.table import COMMON_COLUMNS, Row

Document = dict[str, dict[str, Any]]
"""PROV-JSON: statements by kind and identifier."""


_ADDED = {*COMMON_COLUMNS, "experiment", "iteration", "batch", "table_name", "activity"}
"""Columns that are added to a row and are not part of its table."""


_OTHERS = ("act", "b2", "rev", "set", "person", "unknown", "table", "role", "record", "column", "activity")
"""Prefixes of names that are not records."""


_KINDS = (
    *("entity", "activity", "agent", "wasGeneratedBy", "wasDerivedFrom", "used", "wasAssociatedWith"),
    *("hadMember", "wasInvalidatedBy"),
)


def trace_document(lake: Lake, prefix: str) -> Document:
    """Return the ancestry of the record whose id starts with `prefix`. Raises RecordNotFound."""
    return _document(lake, [Lineage(lake).find(prefix).id])


def dataset_document(lake: Lake, manifest: Manifest) -> Document:
    """Return all examples of a dataset that are not revoked, with their ancestry."""
    return _document(lake, lake.read_columns(manifest, ["id"])["id"].to_list(), manifest.activity.id)


def prov_json(document: Document) -> str:
    """Return the document as ASCII text, which cannot control a terminal."""
    kinds = []
    for kind, statements in document.items():
        lines = (
            f"{json.dumps(name)}: {json.dumps(said, sort_keys=True)}" for name, said in statements.items()
        )
        kinds.append(f'"{kind}": {{\n' + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(kinds) + "\n}\n"


def _document(lake: Lake, starts: Sequence[str], *sets: str) -> Document:
    lineage = Lineage(lake)
    walk = lineage.ancestors(starts)
    rows = lineage.rows(walk.nodes["id"])
    statements = _Statements(lake)
    named = sorted({*sets, *(node for node in walk.nodes["id"] if node in statements.made)})
    statements.records(walk.nodes, rows)
    statements.derivations(walk.edges)
    statements.activities([*named, *(row["activity_id"] for row in rows.values())])
    statements.members(named)
    statements.revocations(set(walk.nodes["id"]))
    prefixes = {prefix: f"urn:selfimprove:{prefix}:" for prefix in statements.prefixes}
    return {"prefix": prefixes, **{kind: said for kind, said in statements.by_kind.items() if said}}


class _Statements:
    """The statements so far, by kind and name; statements without a name are numbered."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.made = {manifest.activity.id: manifest for manifest in lake.manifests()}
        self.by_kind: Document = {kind: {} for kind in _KINDS}
        tables = [*registry.tables().values(), *map(registry.table_of, self._of_unknown_tables())]
        self.prefixes = dict.fromkeys([*(table.tag for table in tables if table.tag), *_OTHERS])

    def say(self, kind: str, name: str, said: Mapping[str, Any]) -> None:
        self.by_kind[kind][self.id_of(name)] = said

    def relate(self, kind: str, **said: Any) -> None:
        statements = self.by_kind[kind]
        statements[f"_:{kind}{len(statements)}"] = {
            f"prov:{name}": value for name, value in said.items() if value is not None
        }

    def records(self, nodes: pl.DataFrame, rows: Mapping[str, Row]) -> None:
        for node in nodes.sort("id").iter_rows(named=True):
            row = rows.get(node["id"], {})
            if node["id"] in self.made:
                continue  # a set is described with the activity that made it
            self.say("entity", node["id"], _place(node) | _columns(row))
            if row:
                self.generation(node["id"], row["activity_id"])

    def derivations(self, edges: pl.DataFrame) -> None:
        for child, parent, role in edges.select("child", "parent", "role").sort(pl.all()).iter_rows():
            self.relate(
                "wasDerivedFrom",
                generatedEntity=self.id_of(child),
                usedEntity=self.id_of(_set(parent) if parent in self.made else parent),
                type=_name("role:" + quote(role, safe="")),
            )
            if parent.startswith("b2:"):
                self.model(parent)

    def activities(self, start: Iterable[str]) -> None:
        """Add these activities and, recursively, the activities whose outputs they used, with all outputs."""
        for activity_id in _with_inputs(self.made, start):
            manifest = self.made.get(activity_id)  # None if the partition was materialised again since
            self.say("activity", activity_id, _activity(manifest) if manifest else {})
            made = _partition(manifest) if manifest else {}
            self.say("entity", _set(activity_id), {"prov:type": _name("prov:Collection"), **made})
            self.generation(_set(activity_id), activity_id)
            if manifest is None:
                continue
            for source in sorted(set(manifest.activity.inputs)):
                self.relate("used", activity=self.id_of(activity_id), entity=self.id_of(_set(source)))
            if model := manifest.activity.model_id:
                self.model(model)
                self.relate("wasAssociatedWith", activity=self.id_of(activity_id), agent=self.id_of(model))

    def members(self, sets: Iterable[str]) -> None:
        for activity_id in sets:
            for member in sorted(self.lake.read_whole(self.made[activity_id])["id"]):
                self.relate("hadMember", collection=self.id_of(_set(activity_id)), entity=self.id_of(member))

    def revocations(self, nodes: set[str]) -> None:
        known = {revocation.id: revocation for revocation in self.lake.ledger.revocations()}
        told = set()
        for record, identifier in self.lake.ledger.all_withdrawn().sort("id", "revocation").iter_rows():
            if record not in nodes:
                continue
            revocation = known[identifier]
            self.relate(
                "wasInvalidatedBy",
                entity=self.id_of(record),
                activity=self.id_of(identifier),
                time=revocation.at,
            )
            if identifier in told:
                continue
            told.add(identifier)
            person = "person:" + quote(revocation.by, safe="")
            times = {"prov:startTime": revocation.at, "prov:endTime": revocation.at}
            kind = _name("activity:revocation")
            self.say("activity", identifier, {"prov:type": kind, **times, "prov:label": revocation.why})
            self.say("agent", person, {"prov:type": _name("prov:Person"), "prov:label": revocation.by})
            self.relate("wasAssociatedWith", activity=self.id_of(identifier), agent=self.id_of(person))

    def generation(self, entity: str, activity_id: str) -> None:
        manifest = self.made.get(activity_id)
        time = manifest.committed_at if manifest else None
        self.relate("wasGeneratedBy", entity=self.id_of(entity), activity=self.id_of(activity_id), time=time)

    def model(self, model_id: str) -> None:
        self.say("agent", model_id, {"prov:type": _name("prov:SoftwareAgent")})

    def _of_unknown_tables(self) -> list[Manifest]:
        """Return one partition of each table that no installed method declares."""
        known = registry.tables()
        return [*{one.table: one for one in self.made.values() if one.table not in known}.values()]

    def id_of(self, identifier: str) -> str:
        """Return a qualified name: the id itself, or, if its form is unusual, quoted under `unknown`."""
        tag, _, local = identifier.partition(":")
        if tag in self.prefixes and re.fullmatch(r"[\w%.-]*[\w%-]", local, re.ASCII):
            return identifier
        return "unknown:" + quote(identifier, safe="")


def _with_inputs(made: Mapping[str, Manifest], start: Iterable[str]) -> list[str]:
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        activity_id = waiting.pop()
        if activity_id not in found:
            found.add(activity_id)
            waiting += made[activity_id].activity.inputs if activity_id in made else ()
    return sorted(found)


def _activity(manifest: Manifest) -> Row:
    activity = manifest.activity
    end = datetime.fromisoformat(manifest.committed_at)
    start = end - timedelta(seconds=float(activity.about.get("seconds", 0)))
    return {
        "prov:startTime": start.isoformat(),
        "prov:endTime": end.isoformat(),
        "activity:table": activity.table,
        "activity:code_version": activity.code_version,
        "activity:seed": activity.seed,
        "activity:parameters": _value(activity.to_json()["parameters"]),
        "activity:about": _value(dict(activity.about)),
    }


def _place(node: Row) -> Row:
    """Return what a walk knows about a record; only the id if it is not a row of the lake."""
    if node["table_name"] is None:
        return {}
    place = {"record:experiment": node["experiment"], "record:iteration": node["iteration"]}
    return {
        "prov:type": _name(f"table:{node['table_name']}"),
        **{name: value for name, value in place.items() if value is not None},
    }


def _partition(manifest: Manifest) -> Row:
    iteration = {"iteration": manifest.iteration} if "iteration" in manifest.partition else {}
    said = {"table": manifest.table, "rows": manifest.rows, **manifest.partition, **iteration}
    return {f"record:{name}": value for name, value in said.items()}


def _columns(row: Row) -> Row:
    if not row:
        return {}
    own = {f"record:{name}": row[name] for name in ("content_hash", "sample_index")}
    table = registry.tables().get(row["table_name"])
    names = (*table.content, *table.measures) if table else [name for name in row if name not in _ADDED]
    columns = {f"column:{name}": row[name] for name in names}
    return {name: _value(value) for name, value in (own | columns).items() if value is not None}


def _value(value: Any) -> Any:
    """Return a PROV-JSON value: numbers and text unchanged, lists and structs as JSON text."""
    if isinstance(value, float) and not math.isfinite(value):
        said = "NaN" if math.isnan(value) else "INF" if value > 0 else "-INF"
        return {"$": said, "type": "xsd:double"}
    if isinstance(value, (str, bool, int, float)):
        return value
    return json.dumps(value, sort_keys=True)


def _set(activity_id: str) -> str:
    return "set:" + activity_id.removeprefix("act:")


def _name(name: str) -> Row:
    return {"$": name, "type": "prov:QUALIFIED_NAME"}
