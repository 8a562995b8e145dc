"""Revoke a seed, a record, a source file or a licence, together with all descendants.

Revoked rows are left out of every later read; they are deleted only by a purge. `plan` computes what would be
revoked, `revoke` applies it, and `restore` undoes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.errors import RevocationError
from selfimprove_dagster.home.imports import shows
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.revocations import KINDS, Revocation, fall, now, question_hash, seed_text
from selfimprove_dagster.lineage.iteration import position
from selfimprove_dagster.lineage.story import declared
from selfimprove_dagster.lineage.walk import Lineage, Place, RecordNotFound
from selfimprove_dagster.loop.taint import taint, tainted_models

_IDENTIFIED = ("seed", "record")


_JUDGEMENTS = ("evaluation", "promotion")
"""The stages, of all methods, whose rows never lead to examples."""


@dataclass(frozen=True)
class Plan:
    """What a revocation covers.

    `fallen` has `id, table, experiment, iteration, activity_id` of all rows that it covers, including those
    that were revoked before. `tainted` holds, by experiment, the models that it taints, each with the reason.
    `known` is set if the ledger already holds the revocation.
    """

    revocation: Revocation
    fallen: pl.DataFrame
    tainted: Mapping[str, Mapping[str, str]]
    known: bool

    @property
    def counts(self) -> pl.DataFrame:
        """Return `table, iteration, rows`, in the order of the tables."""
        counted = self.fallen.group_by("table", "iteration").len("rows")
        order = {table: position(table) for table in counted["table"]}
        return counted.sort(pl.col("table").replace_strict(order, return_dtype=pl.Int64), "iteration")


def plan(
    lake: Lake, kind: str, value: str, experiment: str | None, by: str, why: str, at: str | None = None
) -> Plan:
    """Return what would be revoked. Raises RevocationError, or RecordNotFound if nothing matches.

    `kind` is seed, record, source-file or licence; `value` is an id or the start of one, a file's name, or a
    licence. Without an experiment it applies to all. An existing live revocation of the same value is
    resumed. `at` is the time of the revocation, by default now: its id depends on it.
    """
    if kind not in KINDS:
        raise RevocationError(f"a {kind} cannot be revoked; use one of {', '.join(KINDS)}")
    if not why.strip():
        raise RevocationError("a revocation needs a reason; give --why")
    revocation = _standing(lake, kind, value, experiment)
    known = revocation is not None
    if revocation is None:
        revocation = _new(lake, kind, value, experiment, by, why, at or now())
    fallen = _closure(lake, revocation)
    pairs = fallen.select("id", "activity_id", revocation=pl.lit(revocation.id))
    tainted = {
        name: found
        for name in fallen["experiment"].unique().sort()
        if (found := taint(lake, name, lambda activity: pairs.filter(activity_id=activity)))
    }
    return Plan(revocation, fallen, tainted, known)


def revoke(
    lake: Lake, kind: str, value: str, experiment: str | None, by: str, why: str, at: str | None = None
) -> Plan:
    """Apply a revocation, as `plan` has it. It resumes if it was interrupted or is called twice.

    No commit can interleave, since partitions are committed under the same lock: each partition is either in
    the lake before the walk, or is committed after the revocation is recorded.
    """
    with lake.ledger.lock():
        settled = plan(lake, kind, value, experiment, by, why, at)
        if not settled.known:
            lake.ledger.record(settled.revocation)
        pairs = settled.fallen.select("id", "activity_id", revocation=pl.lit(settled.revocation.id))
        for (activity,), rows in pairs.group_by("activity_id"):
            lake.ledger.withdraw(str(activity), rows)
        counts = settled.fallen["table"].value_counts(sort=True)
        earlier = settled.revocation.events.get("applied", {}).get("tainted", {})
        tainted = {
            name: {**earlier.get(name, {}), **settled.tainted.get(name, {})}
            for name in {**earlier, **settled.tainted}
        }
        if "purging" not in settled.revocation.events:
            lake.ledger.note(
                settled.revocation.id, "applied", {"fallen": dict(counts.iter_rows()), "tainted": tainted}
            )
    lake.refresh_catalog()
    return settled


def restore(lake: Lake, prefix: str, by: str, why: str) -> Revocation:
    """Lift the only revocation whose id starts with `prefix`.

    Raises RevocationError if it is purged or lifted.
    """
    with lake.ledger.lock():
        found = [one for one in lake.ledger.revocations() if one.id.startswith(prefix)]
        if len(found) != 1:
            known = ", ".join(one.id for one in found) or "none"
            raise RevocationError(
                f"{prefix!r} must be the start of exactly one revocation id; it matches: {known}"
            )
        revocation = found[0]
        if not revocation.live:
            raise RevocationError(f"{revocation.id} is already lifted")
        if "purging" in revocation.events:
            raise RevocationError(f"{revocation.id} was purged: its rows are no longer on the disk")
        if not why.strip():
            raise RevocationError("restoring needs a reason; give --why")
        lake.ledger.note(revocation.id, "lifted", {"by": by, "why": why, "at": now()})
    lake.refresh_catalog()
    return revocation


def all_tainted(lake: Lake, settled: Plan, experiment: str) -> dict[str, str]:
    """Return the experiment's tainted models once the plan is applied."""
    return {**tainted_models(lake, experiment), **settled.tainted.get(experiment, {})}


def _standing(lake: Lake, kind: str, value: str, experiment: str | None) -> Revocation | None:
    """Return a live revocation of the same value, also for a record that was purged from the disk."""
    candidates = [
        one
        for one in lake.ledger.revocations()
        if one.live and one.kind == kind and one.experiment == experiment
    ]
    if kind in _IDENTIFIED and value not in {one.value for one in candidates}:
        try:
            value = Lineage(lake).find(value).id
        except RecordNotFound:
            begun = {one.value for one in candidates if one.value.startswith(value)}
            if len(begun) != 1:
                raise
            (value,) = begun
    return next((one for one in candidates if one.value == value), None)


def _new(lake: Lake, kind: str, value: str, experiment: str | None, by: str, why: str, at: str) -> Revocation:
    """Return a revocation with its roots: the record, or all matching rows of the seed tables."""
    roots: set[str] = set()
    place = None
    if kind in _IDENTIFIED:
        place = Lineage(lake).find(value)
        value = place.id
        _refuse_unless_revocable(place, kind, experiment)
        roots.add(value)
    rows = [
        row
        for manifest in lake.manifests("seeds/*", experiment or "*")
        for row in lake.read_whole(manifest).iter_rows(named=True)
    ]
    texts = [text for row in rows if row["id"] in roots and (text := seed_text(row)) is not None]
    hashes = tuple(question_hash(text) for text in texts)
    revocation = Revocation(kind, value, experiment, (), hashes, by, why, at)
    for row in rows:
        excerpt = row.get("excerpt")
        revealed = any(shows(excerpt or "", text) for text in texts)
        named = revocation.names(row["source_file"], row["licence"], seed_text(row))
        if revealed or (named and excerpt != ""):
            roots.add(row["id"])
    if not roots:
        where = f"experiment {experiment}" if experiment else "the lake"
        raise RevocationError(f"nothing in {where} has the {kind} {value!r}; see the tables seeds/*")
    return replace(revocation, roots=tuple(sorted(roots)))


def _refuse_unless_revocable(place: Place, kind: str, experiment: str | None) -> None:
    method, stage = place.table.split("/")
    table = registry.tables().get(place.table)
    if stage in (*_JUDGEMENTS, *declared(method).judgements) or (table is not None and table.holds_model):
        raise RevocationError(
            f"{place.id} is in {place.table}, whose rows never lead to examples; "
            "revoke what it was trained on"
        )
    if experiment not in (None, place.experiment):
        raise RevocationError(f"{place.id} belongs to the experiment {place.experiment}, not to {experiment}")
    if kind == "seed" and method != "seeds":
        raise RevocationError(f"{place.id} is not a seed but a row of {place.table}; revoke it as a record")


def _closure(lake: Lake, revocation: Revocation) -> pl.DataFrame:
    """Return the rows to revoke: descendants of the roots, not through a dataset or its model."""
    walk = Lineage(lake).descendants(list(revocation.roots))
    roots = pl.DataFrame({"id": revocation.roots, "revocation": revocation.id})
    ids = fall(walk.edges.filter(pl.col("role") != "member_of"), roots)["id"].unique()
    reached = set(walk.nodes["table_name"].drop_nulls())
    columns = {"table": pl.String, "experiment": pl.String, "iteration": pl.Int64, "activity_id": pl.String}
    found = [pl.DataFrame(schema={"id": pl.String, **columns})]
    for manifest in lake.manifests():
        if manifest.table in reached:
            members = pl.scan_parquet(manifest.paths, hive_partitioning=False, glob=False).select("id")
            at = (manifest.table, manifest.experiment, manifest.iteration, manifest.activity.id)
            found.append(
                members.filter(pl.col("id").is_in(ids.implode()))
                .with_columns(
                    pl.lit(value, dtype=dtype).alias(name)
                    for (name, dtype), value in zip(columns.items(), at, strict=True)
                )
                .collect()
            )
    return pl.concat(found)
