"""The tasks that an iteration may show: those of people, and those that the model has added.

People steer a pool by files. Tasks of a new or edited seed file join it; a task that bears the `id` of an
earlier one replaces it; an instruction in the file `seeds.banned` leaves the pool, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.families.tasks.files import BannedInstruction, read_banned
from selfimprove_dagster.families.tasks.files import bans as by_instruction
from selfimprove_dagster.families.tasks.settings import TaskExperiment
from selfimprove_dagster.families.tasks.tables import POOL_TASKS, SEED_TASKS
from selfimprove_dagster.families.tasks.tasks import normalise_instruction
from selfimprove_dagster.filters.rules import DECISION_COLUMNS
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.shared_tables import REJECTED_SEEDS
from selfimprove_dagster.table import Row


@dataclass(frozen=True)
class TaskPool:
    """`tasks`: `id` of the seed or accepted task, and the columns of a pool task; `decisions`: on each."""

    tasks: pl.DataFrame
    decisions: pl.DataFrame
    inputs: list[Manifest]


def bans(experiment: TaskExperiment) -> dict[str, BannedInstruction]:
    """What must go, by normalised instruction. Raises SeedFileError naming a line that cannot be read."""
    if experiment.seeds.banned is None:
        return {}
    found, rejected = read_banned(Path(experiment.seeds.banned))
    if rejected:
        bad = rejected[0]
        raise SeedFileError(
            f"{experiment.seeds.banned}, line {bad.source_line}: {bad.reason}; mend the line, "
            "then run again: what it bans would stay"
        )
    return by_instruction(found)


def pool(lake: Lake, experiment: TaskExperiment, iteration: int) -> TaskPool:
    """The pool of an iteration: seed tasks in the order of their import, then accepted tasks in theirs.

    Raises SeedFileError where no seed task is left.
    """
    imports = sorted(lake.manifests(SEED_TASKS.name, experiment.name), key=lambda one: one.committed_at)
    accepted = [
        manifest
        for manifest in lake.manifests(f"{experiment.method}/accepted_tasks", experiment.name)
        if manifest.iteration < iteration
    ]
    human = [row for manifest in imports for row in _rows(lake, manifest, "human")]
    machine = [row for manifest in accepted for row in _rows(lake, manifest, "machine")]
    tasks, decisions = _kept([*human, *machine], bans(experiment))
    if not any(task["origin"] == "human" for task in tasks):
        raise SeedFileError(
            f"experiment {experiment.name} has no seed tasks: none were imported, or all were rejected, "
            f"revoked or banned; look at the table {REJECTED_SEEDS.name} for the reasons"
        )
    return TaskPool(
        pl.DataFrame(tasks, schema={"id": pl.String, **POOL_TASKS}),
        pl.DataFrame(decisions, schema=DECISION_COLUMNS),
        [*imports, *accepted],
    )


def _rows(lake: Lake, manifest: Manifest, origin: str) -> list[Row]:
    known = lake.read_ungated(manifest)
    columns = [name for name in ("id", *POOL_TASKS) if name in known.columns]
    if "input" in known.columns:  # an elicited task has one input, and its output is drawn apart
        known = known.with_columns(
            pl.concat_list(pl.struct("input", output=pl.lit(None, pl.String))).alias("instances")
        )
        columns.append("instances")
    nothing = dict.fromkeys(["id", *POOL_TASKS])
    return [{**nothing, **row, "origin": origin} for row in known.select(columns).iter_rows(named=True)]


def _kept(rows: Sequence[Row], banned: Mapping[str, BannedInstruction]) -> tuple[list[Row], list[Row]]:
    """The rows that stay, and a decision on each: the last of several with one name, unless it is banned."""
    last = {row["name"]: row["id"] for row in rows if row["name"]}
    kept, decisions = [], []
    for row in rows:
        newer = last.get(row["name"], row["id"])
        ban = banned.get(normalise_instruction(row["instruction"]))
        if newer != row["id"]:
            rule, reason = "newest_version", f"replaced by {newer}, which has the same id in its file"
        elif ban:
            rule, reason = "not_banned", f"banned by {ban.by}: {ban.why}"
        else:
            rule, reason = "not_banned", "not banned"
            kept.append(row)
        decisions.append(
            {
                "candidate_id": row["id"],
                "rule": rule,
                "kept": newer == row["id"] and not ban,
                "score": None,
                "threshold": None,
                "reason": reason,
                "nearest_id": newer if newer != row["id"] else None,
            }
        )
    return kept, decisions
