"""One iteration as it lies on the disk, and what each of its stages said of a path or question.

Rows are read whole, withdrawn ones too: what was revoked can still be explained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from selfimprove_dagster import registry, tables
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.methods.lmsi.tables import (
    DECISIONS,
    FILTERED_DATASET,
    PERPLEXITY_SCORES,
    RAW_GENERATIONS,
    VOTED_ANSWERS,
)
from selfimprove_dagster.table import Row, Table

_ORDER = {table: position for position, table in enumerate(tables.TABLES)}


_DRAWN = ("questions", "texts", "prompts", "comparisons")
"""The setting that says how many seeds were drawn, whatever they are."""


_EXAMPLE = f"{FILTERED_DATASET.tag}:"
"""How the ids of examples begin, of which another experiment's seeds may be."""


UNDECIDED = "undecided"
"""The fate of a path that no filter has seen yet."""


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
    """What became of one path: `rule` is the one that dropped it, None where it was kept."""

    path: str
    sample_index: int
    answer: str | None
    rule: str | None
    reason: str
    example: str | None


class Iteration:
    """The tables of one iteration, as far as they are committed."""

    def __init__(self, lake: Lake, experiment: str, iteration: int, method: str = "lmsi") -> None:
        self.lake = lake
        self.method = method
        self.partition = partition_of(experiment, iteration)
        self.number = iteration

    @property
    def key(self) -> str:
        return f"{self.partition['experiment']}-{self.partition['iteration']}"

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """What is committed, by table, in the pipeline's order."""
        committed = (name for name in tables.TABLES if self.lake.exists(name, self.partition))
        return {name: self.lake.manifest(name, self.partition) for name in committed}

    def table(self, stage: str) -> Table:
        """The table of a stage, for the method of this iteration."""
        return tables.of(self.method, stage)

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

    def revoked(self, ids: Iterable[str]) -> list[Step]:
        """A step for each of the ids that was revoked."""
        wanted = set(ids)
        return [step for manifest in self.manifests.values() for step in revoked(self.lake, manifest, wanted)]

    def fates(self, question: str) -> list[Fate]:
        """What became of each path of a question, in sample order."""
        paths = self.rows(RAW_GENERATIONS, pl.col("question_id") == question)
        ids = [row["id"] for row in paths]
        answers = {
            ballot["id"]: ballot["answer"]
            for vote in self.rows(VOTED_ANSWERS, pl.col("question_id") == question)
            for ballot in vote["paths"]
        }
        last = {row["candidate_id"]: row for row in self.rows(DECISIONS, _in("candidate_id", ids))}
        examples = {
            edge["id"]: row["id"]
            for row in self.rows(FILTERED_DATASET, pl.col("question_id") == question)
            for edge in row["parents"]
            if edge["role"] == "path"
        }
        fates = []
        for row in sorted(paths, key=lambda row: row["sample_index"]):
            path = row["id"]
            decided = last.get(path, {"kept": False, "rule": UNDECIDED, "reason": "not filtered yet"})
            rule = None if decided["kept"] else decided["rule"]
            answer, example = answers.get(path), examples.get(path)
            fates.append(Fate(path, row["sample_index"], answer, rule, decided["reason"], example))
        return fates

    def source(self, pooled: Row) -> list[Step]:
        """The seed of a question or text, and that it was chosen."""
        if not pooled:
            return []
        seeds = registry.method(self.method).seeds
        accepted = f"accepted from {source_of(pooled)}"
        given_by = seeds.kind.table.name if seeds else self.table("seed_pool").name
        if pooled["parents"] and (giver := self._giver(pooled["parents"][0]["id"])):
            accepted = f"taken from the dataset of {giver.experiment}-{giver.iteration:03d}, which had it of "
            accepted, given_by = accepted + source_of(pooled), giver.table
        if pooled.get("date"):
            accepted += f", written on {pooled['date']}"
        parent = pooled["parents"][0]["id"] if pooled["parents"] else None
        manifest = self.manifest(self.table("seed_pool"))
        given = manifest.activity.parameters if manifest else {}
        chosen = f"chosen for {self.key} by lot"
        if "pool" in given:
            drawn = next(given[name] for name in _DRAWN if name in given)
            chosen += f": {drawn:,} of {given['pool']:,} seeds, the least used first"
        return [
            Step(given_by, accepted, parent, passed=True),
            Step(self.table("seed_pool").name, chosen, pooled["id"], passed=True),
        ]

    def _giver(self, record: str) -> Manifest | None:
        """The dataset of another experiment that holds a seed; None for seeds that were imported."""
        pool = self.manifest(self.table("seed_pool"))
        for source in pool.activity.inputs if pool and record.startswith(_EXAMPLE) else ():
            for manifest in self.lake.manifests("*/filtered_dataset"):
                if manifest.activity.id == source:
                    return manifest
        return None

    def vote(self, question: str) -> list[Step]:
        """The vote on a question."""
        row = self.row(VOTED_ANSWERS, "question_id", question)
        if not row:
            return []
        counts = ", ".join(f"{vote['answer']} × {vote['count']}" for vote in row["votes"])
        said = f"the vote is {row['voted_answer']} by {row['rule']}" if row["votes"] else "no vote"
        figures = f"{row['n_valid']} of {row['n_paths']} paths state an answer"
        if row["votes"]:
            figures += f" ({counts}); share {row['vote_share']:.3g}, margin {row['margin']:.3g}"
            figures += ", a tie" if row["tie"] else ""
        return [Step(VOTED_ANSWERS.name, f"{said}: {figures}", row["id"], score=row["vote_share"])]

    def gates(self) -> list[Step]:
        """The blocking checks that failed last, in the pipeline's order."""
        return [
            Step(manifest.table, check.reason, rule=check.name, passed=False)
            for manifest in self.manifests.values()
            for check in self.lake.checks(manifest)
            if check.blocking and not check.passed
        ]

    def training(self) -> list[Step]:
        """The checkpoint that was trained on the dataset as it stands, or on what a model that was trained on
        it wrote; and whether it was promoted."""
        if f"{self.method}/fine_tuned_checkpoint" not in tables.TABLES:
            return []
        dataset = self.manifest(self.table("filtered_dataset"))
        if dataset is None:
            return []
        own = dataset.activity.id
        made_of = [one.activity.id for one in self.manifests.values() if own in one.activity.inputs]
        trained = self.rows(
            self.table("fine_tuned_checkpoint"), pl.col("dataset_activity_id").is_in([own, *made_of])
        )
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
        steps = [Step(self.table("fine_tuned_checkpoint").name, said, checkpoint["id"])]
        promotion = self.table("promotion")
        for row in self.rows(promotion, pl.col("challenger_model_id") == checkpoint["model_id"]):
            steps.append(Step(promotion.name, row["reason"], row["id"], passed=row["promoted"]))
        return steps

    def decisions(self, path_id: str) -> list[Step]:
        """The filters' decisions on a path, in the order in which they were made."""
        rows = self.rows(DECISIONS, pl.col("candidate_id") == path_id)
        nearest = [row["nearest_id"] for row in rows if row["nearest_id"]]
        neighbours = {
            row["id"]: Neighbour(row["id"], row["text"])
            for row in self.rows(RAW_GENERATIONS, _in("id", nearest))
        }
        return [
            Step(
                row["stage"],
                row["reason"],
                row["id"],
                rule=row["rule"],
                passed=row["kept"],
                score=row["score"],
                threshold=row["threshold"],
                nearest=neighbours.get(row["nearest_id"]),
            )
            for row in rows
        ]

    def drawn(self, path: Row) -> list[Step]:
        """By what a path was drawn."""
        manifest = self.manifest(RAW_GENERATIONS)
        if not path or manifest is None:
            return []
        activity = manifest.activity
        said = (
            f"sample {path['sample_index']} from {activity.about.get('champion', 'the model')} "
            f"{activity.model_id} at temperature {activity.parameters.get('temperature')}, "
            f"seed {path['seed']}; ended by {path['finish_reason']}"
        )
        return [Step(RAW_GENERATIONS.name, said, path["id"])]

    def score(self, path_id: str) -> list[Step]:
        """A path's perplexity."""
        row = self.row(PERPLEXITY_SCORES, "path_id", path_id)
        if not row:
            return []
        said = f"perplexity {row['perplexity']:.4g} over {row['tokens']} tokens under its own generator"
        return [Step(PERPLEXITY_SCORES.name, said, row["id"], score=row["perplexity"])]


def rows_of(manifest: Manifest, condition: pl.Expr) -> list[Row]:
    """The rows of a partition that meet the condition, withdrawn ones too."""
    frame = pl.scan_parquet(manifest.paths, hive_partitioning=False, glob=False)
    return frame.filter(condition).collect().rows(named=True)


def revoked(lake: Lake, manifest: Manifest, ids: set[str]) -> list[Step]:
    """A step for each of the ids that is withdrawn from the partition."""
    return [
        Step(manifest.table, f"revoked by {revocation}", record, rule="revoked", passed=False)
        for record, revocation in lake.withdrawn(manifest).items()
        if record in ids
    ]


def all_revoked(lake: Lake, experiment: str, ids: set[str]) -> list[Step]:
    """A step for each of the ids that is withdrawn from the experiment, in the pipeline's order."""
    found = [
        step for manifest in lake.manifests(experiment=experiment) for step in revoked(lake, manifest, ids)
    ]
    return sorted(found, key=lambda step: _ORDER[step.stage])


def source_of(row: Row) -> str:
    """File, line and licence of a row that carries them."""
    return f"{row['source_file']}, line {row['source_line']} (licence: {row['licence']})"


def _in(column: str, values: list[str]) -> pl.Expr:
    return pl.col(column).is_in(values)
