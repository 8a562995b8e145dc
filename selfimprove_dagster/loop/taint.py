"""Find tainted checkpoints, i.e. those that were trained on revoked data.

A checkpoint is tainted if examples that it was trained on were revoked, if it started from a tainted one, or
if a tainted one wrote or rewarded its training text. The whole model is tainted, since the effect of a single
example on its weights is unknown. The taint is recorded with the revocation until that is lifted, even if
data is materialised again or purged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.records import Activity
from selfimprove_dagster.table import HELD_OUT, datasets_of, not_learnt

REWARDED_BY = "rewarded_by"
"""The role of a reward model whose scores another model was trained to increase."""


Withdrawn = Callable[[str], pl.DataFrame]
"""Returns `id, revocation` of the withdrawn rows of an activity."""


def tainted_models(lake: Lake, experiment: str) -> dict[str, str]:
    """Return the ids of the experiment's tainted models, each with the reason."""
    revocations = lake.ledger.revocations(experiment)
    if not revocations:
        return {}
    recorded: dict[str, str] = {}
    for revocation in revocations:
        recorded |= revocation.events.get("applied", {}).get("tainted", {}).get(experiment, {})
    return recorded | taint(lake, experiment, lake.ledger.withdrawn)


def taint(lake: Lake, experiment: str, withdrawn: Withdrawn) -> dict[str, str]:
    """Return the checkpoints in the lake that these withdrawn rows would taint, each with the reason."""
    manifests = lake.manifests(experiment=experiment)
    activities = {manifest.activity.id: manifest.activity for manifest in manifests}
    checkpoints = [
        (manifest, row)
        for manifest in manifests
        if registry.table_of(manifest).holds_model
        for row in lake.read_whole(manifest).iter_rows(named=True)
    ]
    reasons: dict[str, str] = {}
    while True:
        known = len(reasons)
        for manifest, row in checkpoints:
            reason = _learnt(manifest, row, withdrawn) or _handed_down(row, activities, reasons)
            if reason:
                reasons.setdefault(row["model_id"], reason)
        if len(reasons) == known:
            return reasons


def _learnt(manifest: Manifest, row: Mapping[str, Any], withdrawn: Withdrawn) -> str:
    fallen = pl.concat([withdrawn(dataset) for dataset in datasets_of(row)] or [withdrawn("")])
    left_out = fallen.filter(pl.col("revocation").is_in(manifest.activity.about.get("revocations", [])))
    fallen = fallen.join(left_out, on="id", how="anti")
    held_out = pl.col("id").is_in([*(row.get(HELD_OUT) or ())])
    for learnt, did in (
        (fallen.filter(~held_out & ~pl.col("id").is_in([*not_learnt(row)])), "was trained on"),
        (fallen.filter(held_out), "was chosen by the loss on"),
    ):
        if not learnt.is_empty():
            revocations = ", ".join(learnt["revocation"].unique().sort())
            return f"it {did} {learnt['id'].n_unique():,} examples that were revoked ({revocations})"
    return ""


def _handed_down(
    row: Mapping[str, Any], activities: Mapping[str, Activity], reasons: Mapping[str, str]
) -> str:
    if row["base_model_id"] in reasons:
        return f"it started from {row['base_model_id']}, which is tainted"
    rewarding = [
        edge["id"] for edge in row["parents"] if edge["role"] == REWARDED_BY and edge["id"] in reasons
    ]
    if rewarding:
        return f"it was rewarded by {rewarding[0]}, which is tainted"
    pending, seen = datasets_of(row), set()
    while pending:
        activity = activities.get(pending.pop())
        if activity is None or activity.id in seen:
            continue
        seen.add(activity.id)
        if activity.model_id in reasons:
            return f"it was trained on text of {activity.model_id}, which is tainted"
        pending += activity.inputs
    return ""
