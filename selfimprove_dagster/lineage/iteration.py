"""Read one iteration from the disk: its tables, its failed blocking checks, and its checkpoint.

All rows are read, including revoked ones, so that revoked records can still be explained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.errors import PartitionMissing
from selfimprove_dagster.experiment.naming import experiment_of_key
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.table import HELD_OUT, Row, Table, not_learnt

UNDECIDED = "undecided"
"""The rule of a fate that no filter has decided yet."""

_DECISION = {"candidate_id", "rule", "kept"}


@dataclass(frozen=True)
class Neighbour:
    """The record that a duplicate was compared with."""

    id: str
    text: str


@dataclass(frozen=True)
class Step:
    """One decision or event.

    `stage` is its table, `rule` is the filter rule, the failed blocking check or "revoked", and `record` is
    the row that documents it. `passed` is None for events that are not decisions.
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
    """The outcome of one candidate: `rule` is the rule that dropped it, None if it was kept."""

    path: str
    sample_index: int
    answer: str | None
    rule: str | None
    reason: str
    example: str | None


class Iteration:
    """The committed tables of one iteration."""

    def __init__(self, lake: Lake, experiment: str, iteration: int, method: str) -> None:
        self.lake = lake
        self.method = method
        self.partition = partition_of(experiment, iteration)
        self.number = iteration

    @property
    def key(self) -> str:
        """Return the partition key, e.g. `demo-000`."""
        return f"{self.partition['experiment']}-{self.partition['iteration']}"

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """Return the committed manifests by table in pipeline order; undeclared tables come last."""
        found = {
            manifest.table: manifest
            for manifest in self.lake.manifests(experiment=self.partition["experiment"])
            if manifest.partition == self.partition
        }
        return dict(sorted(found.items(), key=lambda item: position(item[0])))

    def table(self, stage: str) -> Table:
        """Return the table of a stage of this iteration's method.

        Raises PartitionMissing if there is none.
        """
        name = f"{self.method}/{stage}"
        if name not in registry.tables():
            raise PartitionMissing(f"the method {self.method} has no stage {stage}")
        return registry.tables()[name]

    def committed(self, stage: str) -> Manifest | None:
        """Return the manifest of a stage of this iteration's method, if it is committed."""
        return self.manifests.get(f"{self.method}/{stage}")

    def manifest(self, schema: Table) -> Manifest | None:
        """Return the committed manifest, if there is one."""
        return self.manifests.get(schema.name)

    def rows(self, schema: Table, condition: pl.Expr) -> list[Row]:
        """Return rows in stored order, including revoked ones; empty if the table is not committed."""
        manifest = self.manifest(schema)
        return rows_of(manifest, condition) if manifest else []

    def row(self, schema: Table, column: str, value: str) -> Row:
        """Return the first row with that value; empty if there is none."""
        return next(iter(self.rows(schema, pl.col(column) == value)), {})

    def gates(self) -> list[Step]:
        """Return the blocking checks that failed in their latest run, in pipeline order."""
        return [
            Step(manifest.table, check.reason, rule=check.name, passed=False)
            for manifest in self.manifests.values()
            for check in self.lake.checks(manifest)
            if check.blocking and not check.passed
        ]

    @property
    def dataset(self) -> Manifest | None:
        """Return the dataset of this iteration, if it is committed."""
        return self.manifests.get(dataset_table(self.method, self.manifests))

    def decisions(self) -> list[Step]:
        """Return the promotion of the checkpoint of `training`, for records that it was not trained on."""
        return self.training()[1:]

    def training(self, examples: Collection[str] = ()) -> list[Step]:
        """Return the checkpoint trained on the current dataset or on its descendants, and its promotion.

        Where it learnt from none of the `examples`, by id, this is said, and nothing else.
        """
        dataset, models = self.dataset, self.committed("fine_tuned_checkpoint")
        if dataset is None or models is None:
            return []
        own = dataset.activity.id
        made_of = [one.activity.id for one in self.manifests.values() if own in one.activity.inputs]
        trained = rows_of(models, pl.col("dataset_activity_id").is_in([own, *made_of]))
        if not trained:
            return []
        (checkpoint,) = trained
        without = not_learnt(checkpoint)
        if examples and without.keys() >= {*examples}:
            reason = without[next(iter(examples))]
            said = f"the checkpoint {checkpoint['model_id']} was not trained on it: {reason}"
            return [Step(models.table, said, checkpoint["id"], passed=False)]
        said = f"the checkpoint {checkpoint['model_id']} was trained on it"
        if checkpoint["dataset_activity_id"] != own:
            said = f"the checkpoint {checkpoint['model_id']} was trained on descendants of it"
        elif checkpoint["examples"] < dataset.rows:
            out = len(checkpoint.get(HELD_OUT) or ())
            longer = dataset.rows - checkpoint["examples"] - out
            why = [f"{longer:,} were too long to train on"] if longer > 0 else []
            why += [f"{out:,} were held out to measure the loss"] if out else []
            said += f", or on other examples of its {dataset.rows:,}: {' and '.join(why)}"
        steps = [Step(models.table, said, checkpoint["id"])]
        promotion = self.committed("promotion")
        challenger = pl.col("challenger_model_id") == checkpoint["model_id"]
        if promotion is not None:
            for row in rows_of(promotion, challenger):
                steps.append(Step(promotion.table, row["reason"], row["id"], passed=row["promoted"]))
        return steps


def iteration_of_key(lake: Lake, key: str) -> Iteration:
    """Return the iteration of a partition key, e.g. `demo-000`.

    Raises PartitionMissing if none of its tables is committed.
    """
    experiment, number = experiment_of_key(key)
    committed = [one for one in lake.manifests(experiment=experiment) if "iteration" in one.partition]
    made = {one.table.split("/")[0] for one in committed if one.iteration == number}
    known = [name for name in registry.methods() if name in made] or sorted(made)
    if not known:
        raise PartitionMissing(f"{key} has no committed tables yet; run it first")
    return Iteration(lake, experiment, number, known[0])


def dataset_table(method: str, committed: Mapping[str, Manifest]) -> str:
    """Return the dataset table of a method: its filtered dataset, or else the last table with decisions."""
    dataset = f"{method}/filtered_dataset"
    if dataset in registry.tables() or dataset in committed:
        return dataset
    decides = {one.activity.parameters.get("decides") for one in committed.values() if holds_decisions(one)}
    decided = [one.table for one in committed.values() if one.activity.id in decides]
    return max(decided, key=position, default=dataset)


def holds_decisions(manifest: Manifest) -> bool:
    """Return whether the rows of a partition are decisions of a filter, one per rule and candidate."""
    return columns_of(manifest) >= _DECISION


def columns_of(manifest: Manifest) -> set[str]:
    """Return the columns of a partition, from its table or, if no method declares it, from its files."""
    table = registry.tables().get(manifest.table)
    if table is not None:
        return {*table.polars}
    return {*pl.scan_parquet(manifest.paths, hive_partitioning=False, glob=False).collect_schema().names()}


def position(table: str) -> int:
    """Return the position of a table in pipeline order; tables that no method declares come last."""
    order = registry.pipeline_order()
    return order.get(table, len(order))


def rows_of(manifest: Manifest, condition: pl.Expr) -> list[Row]:
    """Return the rows of a partition that meet the condition, including revoked ones."""
    frame = pl.scan_parquet(manifest.paths, hive_partitioning=False, glob=False)
    return frame.filter(condition).collect().rows(named=True)


def all_revoked(lake: Lake, experiment: str, ids: set[str]) -> list[Step]:
    """Return a step for each of the ids that is revoked in the experiment, in pipeline order."""
    found = [
        Step(manifest.table, f"revoked by {revocation}", record, rule="revoked", passed=False)
        for manifest in lake.manifests(experiment=experiment)
        for record, revocation in lake.withdrawn(manifest).items()
        if record in ids
    ]
    return sorted(found, key=lambda step: position(step.stage))
