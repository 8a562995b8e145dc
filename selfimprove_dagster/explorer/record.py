"""Collect the page of one record: its texts, why it was kept or not, its ancestors and its descendants."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.conversation import shown
from selfimprove_dagster.explorer.declare import AboutRecord
from selfimprove_dagster.explorer.graph import Family
from selfimprove_dagster.explorer.methods import installed, pages_of, table_named
from selfimprove_dagster.explorer.shapes import (
    table_of,
    text_columns,
)
from selfimprove_dagster.explorer.views import flat
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.revocations import Revocation
from selfimprove_dagster.lineage.explain import explain
from selfimprove_dagster.lineage.explanation import Explanation
from selfimprove_dagster.lineage.main_line import without_ancestors_of_the_shown
from selfimprove_dagster.lineage.walk import Lineage, Place, RecordNotFound, Walk
from selfimprove_dagster.loop.taint import tainted_models
from selfimprove_dagster.table import COMMON_COLUMNS, DATASET, Row, is_decisions, is_measured, said_of

_HIDDEN = {*COMMON_COLUMNS, "table_name", "activity", "experiment", "iteration", "batch"}


_ID_OF_A_RECORD = re.compile(r"(?!b2:)[a-z0-9]{1,6}:[0-9a-f]{16,}")


_MOST = 400
"""Maximum number of ancestors on a page."""


_LISTED = 20
"""Maximum number of examples on a page."""


_LONGEST_LIST = 200
"""Maximum length, in characters, of a list among the facts."""


def record(lake: Lake, prefix: str) -> dict[str, Any]:
    """Return the page of the only record whose id starts with `prefix`. Raises RecordNotFound."""
    lineage = Lineage(lake)
    try:
        place = lineage.find(prefix)
    except RecordNotFound:
        _refuse_if_purged(lake, prefix)
        raise
    declared = table_named(place.table, {})
    shown: dict[str, Any] = {
        "id": place.id,
        "place": place,
        "kind": declared.noun[:1].upper() + declared.noun[1:],
        "revoked": revocation(lake, place),
        "in_dataset": place.table.endswith(f"/{DATASET}"),
        "can_have_offspring": not (is_decisions(declared) or declared.holds_model or is_measured(declared)),
    }
    down = lineage.descendants([place.id])
    shown["offspring"] = _counted(down, place.id)
    if shown["revoked"]:
        return shown
    up = without_ancestors_of_the_shown(lineage.ancestors([place.id]), place.id)
    of_seed = _of_seed(lineage, place, up)
    examples = _examples(of_seed or down, place.id)
    rows = lineage.rows([*up.nodes["id"].head(_MOST), *examples])
    if place.id not in rows:
        raise RecordNotFound(f"{place.id} was just replaced: its table was materialised again")
    row, withdrawn = rows[place.id], _withdrawn(lake, place)
    explained = _without(withdrawn, explain(lake, place.id))
    family, texts = Family(place.id, up, rows), _texts(row)
    about = AboutRecord(lake, lineage, place, row, up, withdrawn)
    blocks = [(block, block.show(about)) for block in pages_of(declared.method).record]
    blocks = [(block, part) for block, part in blocks if part is not None]
    return shown | {
        "row": row,
        "texts": texts,
        "facts": [
            (name, value, isinstance(value, str) and bool(_ID_OF_A_RECORD.fullmatch(value)))
            for name, value in row.items()
            if name not in _HIDDEN | {*text_columns(table_named(place.table, row))}
            and value is not None
            and not _is_bulky(value)
        ],
        "activity": row["activity"],
        "settings": flat(row["activity"].get("parameters", {})),
        "tainted": _tainted(lake, place, row),
        "explanation": explained,
        "blocks": [(str(block.template), part) for block, part in blocks],
        "lists_fates": not any(block.shows_fates for block, _ in blocks),
        "loss": _loss(row) if "log" in row else None,
        "graph": family.graph(),
        "tree": family.tree(),
        "seed": next(iter(_seeds(place, up)), None),
        "of_seed": _counted(of_seed, place.id) if of_seed else [],
        "examples": [_example(rows[example]) for example in examples if example in rows],
    }


def _is_bulky(value: Any) -> bool:
    """Return whether a value is too long for a line, or is nested."""
    if isinstance(value, list):
        return len(str(value)) > _LONGEST_LIST or any(isinstance(one, (list, dict)) for one in value)
    return isinstance(value, dict)


def _example(row: Row) -> Row:
    """Return a training example for a list: its question or first text, its main text and its format."""
    table = table_named(row["table_name"], row)
    texts = [row[name] for name in text_columns(table) if isinstance(row.get(name), str)]
    answer = row.get("answer")
    notes = [row.get("format"), answer if answer is None else f"answer {answer}"]
    return {
        "id": row["id"],
        "iteration": row["iteration"],
        "title": next(iter(texts), ""),
        "text": said_of(table, row),
        "notes": [note for note in notes if isinstance(note, str)],
    }


def whole_text(lake: Lake, prefix: str) -> str:
    """Return every text of a record in full, each under its name."""
    lineage = Lineage(lake)
    place = lineage.find(prefix)
    row = lineage.rows([place.id]).get(place.id)
    if row is None or revocation(lake, place):
        return f"{place.id}: revoked"
    return "\n\n".join(f"# {name}\n{shown(text)}" for name, text in _texts(row))


def _texts(row: Row) -> list[tuple[str, str]]:
    """Return the texts of a record by name; a task's instances follow one another."""
    names = text_columns(table_named(row["table_name"], row))
    if "instruction" in names:
        names = [name for name in names if name != "question"]
    texts = [(name, row[name]) for name in names if isinstance(row.get(name), str) and row[name]]
    if "answer" in row and "instruction" in row:
        texts.append(("output", row["answer"]))
    for number, one in enumerate(row.get("instances") or (), start=1):
        texts += [(f"{name} {number}", one[name]) for name in ("input", "output") if one[name]]
    return texts


def place_of_activity(lake: Lake, identifier: str) -> str | None:
    """Return the address of a dataset (by its activity) or of a model (by its hash); None for records.

    Raises RecordNotFound for a model that was not trained in this lake.
    """
    if identifier.startswith("act:"):
        for manifest in lake.manifests():
            if manifest.activity.id == identifier:
                return _page_of(manifest)
    if identifier.startswith("b2:"):
        for manifest in lake.manifests():
            if not table_of(manifest).holds_model:
                continue
            trained = lake.read_ungated(manifest).filter(model_id=identifier)
            if len(trained):
                return f"/records/{trained['id'][0]}"
        raise RecordNotFound(f"{identifier} is a model that was not trained here, probably a base model")
    return None


def _page_of(manifest: Manifest) -> str:
    page = f"/experiments/{quote(manifest.experiment)}"
    if manifest.iteration < 0:
        return page
    dataset = manifest.table.endswith(f"/{DATASET}")
    return f"{page}/{manifest.iteration}" + ("/examples" if dataset else "")


def revocation(lake: Lake, place: Place) -> Revocation | None:
    """Return the revocation of a record; None if the record is not revoked."""
    for manifest in lake.manifests(place.table, place.experiment):
        if place.iteration in (None, manifest.iteration):
            found = lake.withdrawn(manifest).get(place.id)
            if found:
                return next(entry for entry in lake.ledger.revocations() if entry.id == found)
    return None


def _refuse_if_purged(lake: Lake, record: str) -> None:
    fallen = lake.ledger.all_withdrawn().filter(id=record)
    if len(fallen):
        raise RecordNotFound(f"{record} was revoked by {fallen['revocation'][0]} and purged from the disk")


def _withdrawn(lake: Lake, place: Place) -> set[str]:
    """Return ids of the revoked rows of an experiment, as a record may be compared with any iteration."""
    return {
        fallen
        for manifest in lake.manifests(experiment=place.experiment)
        for fallen in lake.withdrawn(manifest)
    }


def _without(withdrawn: set[str], explanation: Explanation) -> Explanation:
    """Return the explanation without the texts of revoked records."""
    steps = (
        replace(step, reason="revoked", rule=None) if step.record in withdrawn else step
        for step in explanation.steps
    )
    fates = (fate for fate in explanation.fates if fate.path not in withdrawn)
    return replace(explanation, steps=tuple(steps), fates=tuple(fates))


def _of_seed(lineage: Lineage, place: Place, up: Walk) -> Walk | None:
    """Return the descendants of an example's seed, in all iterations."""
    seeds = _seeds(place, up)
    return lineage.descendants(seeds) if seeds and place.table.endswith(f"/{DATASET}") else None


def _seeds(place: Place, up: Walk) -> list[str]:
    """Return the seeds that a record descends from, i.e. ancestors that were imported by people."""
    method = installed(place.table.split("/")[0])
    if method is None or not pages_of(method.name).follows_seed:
        return []
    inputs, first = [table.name for table in method.inputs], method.stages[0].table.name
    tables = dict(up.nodes.select("id", "table_name").iter_rows())
    edges = up.edges.select("child", "parent").iter_rows()
    found = (parent for child, parent in edges if tables.get(child) == first and tables.get(parent) in inputs)
    return [*dict.fromkeys(found)]


def _examples(walk: Walk, besides: str) -> list[str]:
    """Return the first examples of a walk down."""
    in_dataset = pl.col("table_name").str.ends_with(f"/{DATASET}")
    found = walk.nodes.filter(in_dataset & (pl.col("id") != besides))
    return found.sort("iteration", "id")["id"].head(_LISTED).to_list()


def _counted(walk: Walk, besides: str) -> list[dict[str, Any]]:
    """Count the records that a walk reached, by table and iteration, and list the first of them."""
    nodes = walk.nodes.filter(
        pl.col("table_name").is_not_null() & (pl.col("depth") > 0) & (pl.col("id") != besides)
    )
    counts = nodes.group_by("table_name", "experiment", "iteration").agg(
        pl.len().alias("count"), pl.col("id").head(3)
    )
    order = registry.pipeline_order()
    return sorted(
        counts.rows(named=True),
        key=lambda row: (order.get(row["table_name"], len(order)), row["iteration"] or 0),
    )


def _tainted(lake: Lake, place: Place, row: Row) -> str | None:
    """Return why a model is tainted; an empty string if it is clean, None for other records."""
    if not table_named(place.table, row).holds_model:
        return None
    return tainted_models(lake, place.experiment).get(row["model_id"], "")


def _loss(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chart of a checkpoint's loss by step."""
    log: Sequence[Mapping[str, Any]] = row["log"] or []
    return {
        "id": "loss",
        "title": "Training loss",
        "about": "Training loss at each optimiser step.",
        "percent": False,
        "xlabel": "step",
        "x": [entry["step"] for entry in log],
        "series": [
            {"name": "loss", "values": [entry["loss"] for entry in log], "intervals": [None] * len(log)}
        ],
    }
