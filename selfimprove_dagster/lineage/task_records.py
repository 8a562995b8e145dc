"""What came of the tasks of an experiment, stage by stage, and what people call them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from selfimprove_dagster.lake import Lake
from selfimprove_dagster.lineage.iteration import Iteration, rows_of
from selfimprove_dagster.lineage.walk import Lineage
from selfimprove_dagster.records import Row
from selfimprove_dagster.task_tables import TASK_TABLES

TASK_METHODS = {schema.name.split("/")[0] for schema in TASK_TABLES} - {"seeds"}
"""The methods whose model writes tasks."""
OUTCOMES = ("task_instances", "task_outputs", "paraphrases")
"""The stages whose rows become examples of an accepted task, whichever a method has."""


@dataclass(frozen=True)
class TaskRecords:
    """The records of one experiment whose model writes tasks; withdrawn rows too."""

    lake: Lake
    lineage: Lineage
    experiment: str
    method: str

    def iteration(self, number: int) -> Iteration:
        """One of its iterations."""
        return Iteration(self.lake, self.experiment, number, self.method)

    def rows(self, iteration: int, stage: str, column: str, values: Iterable[str]) -> list[Row]:
        """The rows of a stage whose column has one of the values; none where a method lacks the stage."""
        manifest = self.iteration(iteration).manifests.get(f"{self.method}/{stage}")
        return rows_of(manifest, pl.col(column).is_in(list(values))) if manifest else []

    @cached_property
    def iterations(self) -> list[int]:
        """Those that have a pool."""
        found = self.lake.manifests(f"{self.method}/seed_pool", self.experiment)
        return [manifest.iteration for manifest in found]

    def examples(self, parents: Iterable[str]) -> list[Row]:
        """The examples of all iterations that name one of the records as what they were made from."""
        wanted, ids = list(parents), pl.element().struct.field("id")
        named = pl.col("parents").list.eval(ids.is_in(wanted)).list.any()
        return [
            {**row, "iteration": manifest.iteration}
            for manifest in self.lake.manifests(f"{self.method}/filtered_dataset", self.experiment)
            for row in (rows_of(manifest, named) if wanted else ())
        ]

    def accepted(self, iteration: int, candidates: Iterable[str]) -> list[str]:
        """The ids of the accepted tasks that candidates became."""
        return [row["id"] for row in self.rows(iteration, "accepted_tasks", "candidate_id", candidates)]

    def decisions(self, ids: Sequence[str], iterations: Iterable[int], at: int | None) -> list[Row]:
        """All decisions on the records, with `iteration` and in the order in which they were made.

        An instance is decided on again in every later iteration; then the decisions of `at` count, or else
        the last ones.
        """
        wanted = set(iterations)
        found: dict[tuple[str, str], list[Row]] = {}
        for manifest in self.lake.manifests(f"{self.method}/*decisions", self.experiment):
            if manifest.iteration not in wanted:
                continue
            made: dict[tuple[str, str], list[Row]] = {}
            for row in rows_of(manifest, pl.col("candidate_id").is_in(list(ids))):
                key = row["candidate_id"], manifest.table
                made.setdefault(key, []).append({**row, "iteration": manifest.iteration})
            for key, rows in made.items():
                if key not in found or found[key][0]["iteration"] != at:
                    found[key] = rows
        return [row for rows in found.values() for row in rows]

    def names(self, ids: Iterable[str]) -> dict[str, str]:
        """What people call tasks of a pool and accepted ones; others keep their ids.

        `the seed task of seeds.jsonl, line 12`, or `task 112 of iteration 2`: the 112th that it accepted.
        """
        rows = self.lineage.rows(ids, withdrawn=True)
        return {record: self._name(row) for record, row in rows.items()}

    def _name(self, row: Row) -> str:
        stage = row["table_name"].split("/")[1]
        if row.get("source_file"):
            return f"the seed task of {row['source_file']}, line {row['source_line']}"
        accepted = {
            "seed_pool": [edge["id"] for edge in row["parents"]],
            "accepted_tasks": [row["id"]],
            "candidate_tasks": self.accepted(row["iteration"], [row["id"]])
            if stage == "candidate_tasks"
            else [],
        }.get(stage, [])
        for record, place in self.lineage.rows(accepted, withdrawn=True).items():
            manifest = self.iteration(place["iteration"]).manifests[f"{self.method}/accepted_tasks"]
            number = self.lake.read_whole(manifest)["id"].to_list().index(record) + 1
            return f"task {number} of iteration {place['iteration']}"
        return str(row["id"])


def method_of(lake: Lake, table: str, experiment: str) -> str | None:
    """The method of a record's experiment: its table's, and for seeds that of the pools they went into."""
    method = table.split("/")[0]
    if method != "seeds":
        return method
    found = lake.manifests("*/seed_pool", experiment)
    return found[0].table.split("/")[0] if found else None
