"""One iteration as it lies on the disk: its tables, its closed gates, and what was trained in it.

Rows are read whole, withdrawn ones too: what was revoked can still be explained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.errors import PartitionMissing
from selfimprove_dagster.experiment.naming import experiment_of_key
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.table import Row, Table

UNDECIDED = "undecided"
"""The fate of a record that no filter has seen yet."""

_DECISION = {"candidate_id", "rule", "kept"}


@dataclass(frozen=True)
class Neighbour:
    """The record to which a duplicate lost."""

    id: str
    text: str


@dataclass(frozen=True)
class Step:
    """One decision or event on the way.

    `stage` is the table that it belongs to, `rule` the filter rule, the closed gate or "revoked", and
    `record` the row that bears it out. `passed` is None for what is no decision.
    """

    stage: str
    reason: str
    record: str | None = None
    rule: str | None = None
    passed: bool | None = None
    score: float | None = None
    threshold: float | None = None
    nearest: Neighbour | None = None


@dataclass(frozen=True)
class Fate:
    """What became of one candidate: `rule` is the one that dropped it, None where it was kept."""

    path: str
    sample_index: int
    answer: str | None
    rule: str | None
    reason: str
    example: str | None


class Iteration:
    """The tables of one iteration, as far as they are committed."""

    def __init__(self, lake: Lake, experiment: str, iteration: int, method: str) -> None:
        self.lake = lake
        self.method = method
        self.partition = partition_of(experiment, iteration)
        self.number = iteration

    @property
    def key(self) -> str:
        """The partition key, as `demo-000`."""
        return f"{self.partition['experiment']}-{self.partition['iteration']}"

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """What is committed, by table, in the pipeline's order; tables that no method declares come last."""
        found = {
            manifest.table: manifest
            for manifest in self.lake.manifests(experiment=self.partition["experiment"])
            if manifest.partition == self.partition
        }
        return dict(sorted(found.items(), key=lambda item: position(item[0])))

    def table(self, stage: str) -> Table:
        """The table of a stage of this iteration's method. Raises PartitionMissing where there is none."""
        name = f"{self.method}/{stage}"
        if name not in registry.tables():
            raise PartitionMissing(f"the method {self.method} has no stage {stage}")
        return registry.tables()[name]

    def committed(self, stage: str) -> Manifest | None:
        """The manifest of a stage of this iteration's method, if it is committed."""
        return self.manifests.get(f"{self.method}/{stage}")

    def manifest(self, schema: Table) -> Manifest | None:
        """The committed manifest, if there is one."""
        return self.manifests.get(schema.name)

    def rows(self, schema: Table, condition: pl.Expr) -> list[Row]:
        """Rows in stored order, withdrawn ones too; none where the table is not committed."""
        manifest = self.manifest(schema)
        return rows_of(manifest, condition) if manifest else []

    def row(self, schema: Table, column: str, value: str) -> Row:
        """The first row with that value, empty where there is none."""
        return next(iter(self.rows(schema, pl.col(column) == value)), {})

    def gates(self) -> list[Step]:
        """The blocking checks that failed last, in the pipeline's order."""
        return [
            Step(manifest.table, check.reason, rule=check.name, passed=False)
            for manifest in self.manifests.values()
            for check in self.lake.checks(manifest)
            if check.blocking and not check.passed
        ]

    @property
    def dataset(self) -> Manifest | None:
        """The dataset of this iteration, if it is committed."""
        return self.manifests.get(dataset_table(self.method, self.manifests))

    def training(self) -> list[Step]:
        """The checkpoint that was trained on the dataset as it stands, or on what a model that was trained on
        it wrote; and whether it was promoted."""
        dataset, models = self.dataset, self.committed("fine_tuned_checkpoint")
        if dataset is None or models is None:
            return []
        own = dataset.activity.id
        made_of = [one.activity.id for one in self.manifests.values() if own in one.activity.inputs]
        trained = rows_of(models, pl.col("dataset_activity_id").is_in([own, *made_of]))
        if not trained:
            return []
        (checkpoint,) = trained
        said = f"the checkpoint {checkpoint['model_id']} was trained on it"
        if checkpoint["dataset_activity_id"] != own:
            said = f"the checkpoint {checkpoint['model_id']} was trained on what came of it"
        elif checkpoint["examples"] < dataset.rows:
            said += (
                f", or on others of its {dataset.rows:,} examples: "
                f"{dataset.rows - checkpoint['examples']:,} were too long for it"
            )
        steps = [Step(models.table, said, checkpoint["id"])]
        promotion = self.committed("promotion")
        challenger = pl.col("challenger_model_id") == checkpoint["model_id"]
        if promotion is not None:
            for row in rows_of(promotion, challenger):
                steps.append(Step(promotion.table, row["reason"], row["id"], passed=row["promoted"]))
        return steps


def iteration_of_key(lake: Lake, key: str) -> Iteration:
    """The iteration of a partition key, as `demo-000`. Raises PartitionMissing where nothing of it is committed."""
    experiment, number = experiment_of_key(key)
    committed = [one for one in lake.manifests(experiment=experiment) if "iteration" in one.partition]
    made = {one.table.split("/")[0] for one in committed if one.iteration == number}
    known = [name for name in registry.methods() if name in made] or sorted(made)
    if not known:
        raise PartitionMissing(f"{key} has made nothing yet; run it first")
    return Iteration(lake, experiment, number, known[0])


def dataset_table(method: str, committed: Mapping[str, Manifest]) -> str:
    """The table of what a method keeps: its filtered dataset, or else the last one that decisions were made for."""
    dataset = f"{method}/filtered_dataset"
    if dataset in registry.tables() or dataset in committed:
        return dataset
    decides = {one.activity.parameters.get("decides") for one in committed.values() if holds_decisions(one)}
    decided = [one.table for one in committed.values() if one.activity.id in decides]
    return max(decided, key=position, default=dataset)


def holds_decisions(manifest: Manifest) -> bool:
    """Whether the rows of a partition are decisions of a filter: rule by rule, which candidate is kept."""
    return columns_of(manifest) >= _DECISION


def columns_of(manifest: Manifest) -> set[str]:
    """The columns of a partition: those of its table, or of its files where no method declares it."""
    table = registry.tables().get(manifest.table)
    if table is not None:
        return {*table.polars}
    return {*pl.scan_parquet(manifest.paths, hive_partitioning=False, glob=False).collect_schema().names()}


def position(table: str) -> int:
    """The position of a table in the pipeline's order; after all others where no method declares it."""
    order = registry.pipeline_order()
    return order.get(table, len(order))


def rows_of(manifest: Manifest, condition: pl.Expr) -> list[Row]:
    """The rows of a partition that meet the condition, withdrawn ones too."""
    frame = pl.scan_parquet(manifest.paths, hive_partitioning=False, glob=False)
    return frame.filter(condition).collect().rows(named=True)


def all_revoked(lake: Lake, experiment: str, ids: set[str]) -> list[Step]:
    """A step for each of the ids that is withdrawn from the experiment, in the pipeline's order."""
    found = [
        Step(manifest.table, f"revoked by {revocation}", record, rule="revoked", passed=False)
        for manifest in lake.manifests(experiment=experiment)
        for record, revocation in lake.withdrawn(manifest).items()
        if record in ids
    ]
    return sorted(found, key=lambda step: position(step.stage))
