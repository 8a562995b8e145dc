"""Provide the data that checks of a partition read: its rows, related tables, the evaluation questions."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import polars as pl

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.table import Table


class Subject:
    """A partition of a table. Data is read whatever the checks found, and only the requested columns."""

    def __init__(self, table: Table, lake: Lake, experiment: Experiment, iteration: int) -> None:
        self.lake = lake
        self.experiment = experiment
        self.iteration = iteration
        self.schema = table
        self.manifest: Manifest = lake.manifest(table.name, partition_of(experiment.name, iteration))

    def columns(self, *names: str) -> pl.DataFrame:
        """Return columns of the partition; those that an earlier version did not write yet are null."""
        written = self.lake.scan_ungated(self.manifest).collect_schema().names() if self.schema.later else ()
        absent = self.schema.later.intersection(names).difference(written)
        rows = self.lake.read_columns(self.manifest, [name for name in names if name not in absent])
        return rows.with_columns(
            pl.lit(None, self.schema.polars[name]).alias(name) for name in sorted(absent)
        ).select(names)

    def measured(self, *names: str) -> pl.DataFrame:
        """Return columns of the rows that could be generated or scored, which have no `problem`."""
        if "problem" not in self.schema.measures:
            return self.columns(*names)
        return (
            self.columns(*dict.fromkeys((*names, "problem")))
            .filter(pl.col("problem").is_null())
            .select(names)
        )

    @property
    def method(self) -> str:
        """Return the first part of the table's name."""
        return self.schema.method

    def sibling(self, stage: str, *names: str) -> pl.DataFrame:
        """Return columns of another stage in the same iteration.

        Raises PartitionMissing if it is not committed.
        """
        manifest = self.lake.manifest(f"{self.method}/{stage}", self.manifest.partition)
        return self.lake.read_columns(manifest, names)

    def previous(self, *names: str) -> pl.DataFrame | None:
        """Return columns of the same table in the previous iteration, None if there is none."""
        partition = partition_of(self.experiment.name, self.iteration - 1)
        if self.iteration == 0 or not self.lake.exists(self.schema.name, partition):
            return None
        return self.lake.read_columns(self.lake.manifest(self.schema.name, partition), names)

    @cached_property
    def evaluation_questions(self) -> pl.DataFrame:
        """Return the held-out questions.

        The columns are `id` (file and line), `source_file`, `source_line`, `question`, `key`, and `answer`
        (null for a plain text).
        """
        from selfimprove_dagster.home.exams import held_out_questions
        from selfimprove_dagster.text import normalise_question

        return pl.DataFrame(
            [
                (
                    f"{question.source_file}:{question.source_line}",
                    question.source_file,
                    question.source_line,
                    question.question,
                    normalise_question(question.question),
                    question.answer,
                )
                for question in held_out_questions(self.experiment)
            ],
            schema={
                "id": pl.String,
                "source_file": pl.String,
                "source_line": pl.Int64,
                "question": pl.String,
                "key": pl.String,
                "answer": pl.String,
            },
            orient="row",
        )


def with_key(frame: pl.DataFrame, column: str = "question") -> pl.DataFrame:
    """Add a column `key`: the normalised question. Two questions are equal if their keys are."""
    from selfimprove_dagster.text import normalise_question

    keys = [normalise_question(text or "") for text in frame[column]]
    return frame.with_columns(pl.Series("key", keys, dtype=pl.String))


def counted(expected: pl.DataFrame, found: pl.DataFrame, count: str) -> pl.DataFrame:
    """Return every id of either frame with the number of times it was found, or -1 for unexpected ids."""
    known = expected.join(found, on="id", how="left", maintain_order="left").with_columns(
        pl.col(count).cast(pl.Int64).fill_null(0)
    )
    stray = found.join(expected, on="id", how="anti").select("id", pl.lit(-1, dtype=pl.Int64).alias(count))
    return pl.concat([known, stray], how="diagonal")


def share(flags: pl.Series) -> float:
    """Return the share of true values, 0 for an empty series."""
    return float(flags.sum()) / len(flags) if len(flags) else 0.0


def numbers(**values: Any) -> dict[str, float | int | str]:
    """Return the values that are not None, as observed numbers."""
    return {name: float(value) for name, value in values.items() if value is not None}
