"""The tasks that an iteration may show: those of people, and those that the model has added.

People steer a pool by files. Tasks of a new or edited seed file join it; a task that bears the `id` of an
earlier one replaces it; an instruction in the file `seeds.banned` leaves the pool, whoever wrote it, and so does a
seed at a place that `leave_out` names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.families.tasks.files import BannedInstruction, read_banned
from selfimprove_dagster.families.tasks.files import bans as by_instruction
from selfimprove_dagster.families.tasks.settings import TaskExperiment
from selfimprove_dagster.families.tasks.tables import POOL_TASKS, SEED_TASKS
from selfimprove_dagster.families.tasks.tasks import normalise_instruction
from selfimprove_dagster.home.imports import PLACE, left_out_of
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.shared_tables import REJECTED_SEEDS


@dataclass(frozen=True)
class TaskPool:
    """`judged`: every task that may be in the pool, with the decision on it, unread; `inputs`: what it is read from.

    The columns of `judged` are the `id` of the seed or accepted task, those of a pool task, and `rule`, `kept`,
    `reason` and `nearest_id`.
    """

    judged: pl.LazyFrame
    inputs: list[Manifest]


def bans(experiment: TaskExperiment) -> dict[str, BannedInstruction]:
    """What must go, by normalised instruction. Raises SeedFileError naming a line that cannot be read."""
    if experiment.seeds.banned is None:
        return {}
    found, rejected = read_banned(Path(experiment.seeds.banned))
    if rejected:
        bad = rejected[0]
        raise SeedFileError(
            f"{experiment.seeds.banned}, line {bad.source_line}: {bad.reason}; fix the line, "
            "then run again: what it bans would stay"
        )
    return by_instruction(found)


def as_bans(plain: Mapping[str, Mapping[str, Any]]) -> dict[str, BannedInstruction]:
    """Bans from plain data, in which the fields of each stand under its key."""
    return {key: BannedInstruction(**one) for key, one in plain.items()}


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
    tasks = pl.concat(
        [
            pl.LazyFrame(schema=_COLUMNS),
            *(_tasks(lake, manifest, "human") for manifest in imports),
            *(_tasks(lake, manifest, "machine") for manifest in accepted),
        ]
    )
    judged = _judged(tasks, bans(experiment), left_out_of(experiment, tasks))
    if judged.filter("kept", origin="human").head(1).collect().is_empty():
        raise SeedFileError(
            f"experiment {experiment.name} has no seed tasks: none were imported, or all were rejected, "
            f"revoked or banned; look at the table {REJECTED_SEEDS.name} for the reasons"
        )
    return TaskPool(judged, [*imports, *accepted])


_COLUMNS = {"id": pl.String, **POOL_TASKS}


def _tasks(lake: Lake, manifest: Manifest, origin: str) -> pl.LazyFrame:
    rows = lake.scan_ungated(manifest)
    known = rows.collect_schema().names()
    values = {name: pl.col(name) for name in _COLUMNS if name in known} | {"origin": pl.lit(origin)}
    if "input" in known:  # an elicited task has one input, and its output is drawn apart
        values["instances"] = pl.concat_list(pl.struct("input", output=pl.lit(None, pl.String)))
    return rows.select(
        values.get(name, pl.lit(None)).cast(dtype).alias(name) for name, dtype in _COLUMNS.items()
    )


def _judged(
    tasks: pl.LazyFrame, banned: Mapping[str, BannedInstruction], left_out: Sequence[str] = ()
) -> pl.LazyFrame:
    """A decision on each task: the last of several with one name stays, unless it is banned or left out."""
    last = tasks.filter(pl.col("name") != "").select("name", newest="id").group_by("name").last()
    by = pl.LazyFrame(
        [(key, f"banned by {ban.by}: {ban.why}") for key, ban in banned.items()],
        schema={"key": pl.String, "ban": pl.String},
        orient="row",
    )
    key = pl.col("instruction").map_elements(normalise_instruction, return_dtype=pl.String)
    replaced, is_banned = pl.col("newest") != pl.col("id"), pl.col("ban").is_not_null()
    is_left_out = PLACE.is_in([*left_out])
    return (
        tasks.join(last, on="name", how="left", maintain_order="left")
        .with_columns(pl.col("newest").fill_null(pl.col("id")), key=key)
        .join(by, on="key", how="left", maintain_order="left")
        .select(
            *_COLUMNS,
            rule=pl.when(replaced)
            .then(pl.lit("newest_version"))
            .when(is_left_out)
            .then(pl.lit("left_out"))
            .otherwise(pl.lit("not_banned")),
            kept=~replaced & ~is_banned & ~is_left_out,
            reason=pl.when(replaced)
            .then(pl.format("replaced by {}, which has the same id in its file", "newest"))
            .when(is_left_out)
            .then(pl.lit("leave_out in the experiment file names it"))
            .otherwise(pl.col("ban").fill_null("not banned")),
            nearest_id=pl.when(replaced).then("newest"),
        )
    )
