"""Find the descendants of a record: rows, datasets, checkpoints trained on these, and later iterations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.walk import MEMBER_OF, Lineage, Place, Walk, iteration_of
from selfimprove_dagster.table import TRAINED_ON, not_learnt


@dataclass(frozen=True)
class Count:
    """The number of descendants in one partition."""

    table: str
    experiment: str
    iteration: int | None
    rows: int


@dataclass(frozen=True)
class Dataset:
    """A dataset that contains descendants or the record itself; `rows` is their number."""

    activity_id: str
    table: str
    experiment: str
    iteration: int | None
    rows: int


@dataclass(frozen=True)
class Checkpoint:
    """A model that learnt from a row of such a dataset; `promoted` is None before the decision."""

    id: str
    model_id: str
    experiment: str
    iteration: int | None
    promoted: bool | None


@dataclass(frozen=True)
class Descent:
    """The descendants of a record in numbers; `walk` holds every row.

    `later` lists the iterations (experiment, iteration) that generated with one of the checkpoints, or with a
    model that was trained on such generations. They depend on the record although none of their rows descends
    from it.
    """

    place: Place
    walk: Walk
    counts: list[Count]
    datasets: list[Dataset]
    checkpoints: list[Checkpoint]
    later: list[tuple[str, int]]

    def to_json(self, *, every: bool = False) -> dict[str, Any]:
        """Return plain data, with the ids of all descendants if `every` is set."""
        ids = {"ids": self.walk.nodes.filter(pl.col("depth") > 0)["id"].to_list()} if every else {}
        return {
            **asdict(self.place),
            "counts": [asdict(count) for count in self.counts],
            "datasets": [asdict(dataset) for dataset in self.datasets],
            "checkpoints": [asdict(checkpoint) for checkpoint in self.checkpoints],
            "later": [{"experiment": name, "iteration": iteration} for name, iteration in self.later],
            **ids,
        }


def descend(lake: Lake, prefix: str) -> Descent:
    """Return the descendants of the record whose id starts with `prefix`.

    Raises RecordNotFound like `Lineage.find`.
    """
    lineage = Lineage(lake)

    def answer() -> Descent:
        place = lineage.find(prefix)
        walk = lineage.descendants([place.id])
        checkpoints = _checkpoints(lineage, walk)
        return Descent(
            place,
            walk,
            _counts(walk),
            _datasets(lineage, walk),
            checkpoints,
            _later(lineage, {checkpoint.model_id for checkpoint in checkpoints}),
        )

    return lineage.steadily(answer)


def _counts(walk: Walk) -> list[Count]:
    rows = walk.nodes.filter(pl.col("depth") > 0).drop_nulls("table_name")
    counted = rows.group_by("experiment", "iteration", "table_name").len().sort(pl.all(), nulls_last=True)
    return [
        Count(table, experiment, iteration, rows)
        for experiment, iteration, table, rows in counted.iter_rows()
    ]


def _datasets(lineage: Lineage, walk: Walk) -> list[Dataset]:
    members = walk.edges.filter(role=MEMBER_OF).group_by("child").len()
    sizes: dict[str, int] = dict(members.iter_rows())
    return [
        Dataset(activity, manifest.table, manifest.experiment, iteration_of(manifest), sizes[activity])
        for manifest in lineage.snapshot.manifests
        if (activity := manifest.activity.id) in sizes
    ]


def _checkpoints(lineage: Lineage, walk: Walk) -> list[Checkpoint]:
    trained = walk.edges.filter(role=TRAINED_ON)
    decided = walk.edges.filter(role="challenger").select("parent", "child")
    rows = lineage.rows([*trained["child"].unique(maintain_order=True), *decided["child"]])
    verdicts = {challenger: rows[row]["promoted"] for challenger, row in decided.iter_rows() if row in rows}
    members = walk.edges.filter(role=MEMBER_OF).rename({"child": "dataset", "parent": "example"})
    learnt = trained.join(members, left_on="parent", right_on="dataset").group_by("child").agg("example")
    examples = dict(learnt.select("child", "example").iter_rows())
    return [
        Checkpoint(record, row["model_id"], row["experiment"], row.get("iteration"), verdicts.get(record))
        for record in trained["child"].unique(maintain_order=True)
        if (row := rows.get(record))
        and row["table_name"].endswith("/fine_tuned_checkpoint")
        and not not_learnt(row).keys() >= {*examples.get(record, [None])}
    ]


def _later(lineage: Lineage, models: set[str]) -> list[tuple[str, int]]:
    """Return iterations that generate with one of the models, with models trained in those, and so on."""
    manifests = lineage.snapshot.manifests
    indebted: set[tuple[str, int]] = set()
    while True:
        drawn = {
            (manifest.experiment, manifest.iteration)
            for manifest in manifests
            if registry.table_of(manifest).draw and manifest.activity.model_id in models
        }
        if drawn <= indebted:
            return sorted(indebted)
        for manifest in manifests:
            where = (manifest.experiment, manifest.iteration)
            if manifest.table.endswith("/fine_tuned_checkpoint") and where in drawn - indebted:
                models = models | set(lineage.lake.read_whole(manifest)["model_id"])
        indebted |= drawn
