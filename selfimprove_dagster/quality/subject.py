"""What the checks of one partition look at: its rows, its siblings in the lake, the evaluation questions."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import polars as pl

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.table import Table


class Subject:
    """One partition of one table. All is read whatever its checks say, and only the columns asked for."""

    def __init__(self, table: Table, lake: Lake, experiment: Experiment, iteration: int) -> None:
        self.lake = lake
        self.experiment = experiment
        self.iteration = iteration
        self.schema = table
        self.manifest: Manifest = lake.manifest(table.name, partition_of(experiment.name, iteration))

    def columns(self, *names: str) -> pl.DataFrame:
        """Columns of the partition itself."""
        return self.lake.read_columns(self.manifest, names)

    @property
    def method(self) -> str:
        """The first part of the table's name."""
        return self.schema.method

    def sibling(self, stage: str, *names: str) -> pl.DataFrame:
        """Columns of another stage in the same iteration. Raises PartitionMissing where there is none."""
        manifest = self.lake.manifest(f"{self.method}/{stage}", self.manifest.partition)
        return self.lake.read_columns(manifest, names)

    def previous(self, *names: str) -> pl.DataFrame | None:
        """Columns of the same table in the iteration before, None where there is none."""
        partition = partition_of(self.experiment.name, self.iteration - 1)
        if self.iteration == 0 or not self.lake.exists(self.schema.name, partition):
            return None
        return self.lake.read_columns(self.lake.manifest(self.schema.name, partition), names)

    @cached_property
    def evaluation_questions(self) -> pl.DataFrame:
        """The held-out questions: `id` (file and line), `source_file`, `source_line`, `question`, `key`, and
        `answer` (null for a plain text).
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
    """The frame with a column `key`: the normalised question, by which two questions are the same."""
    from selfimprove_dagster.text import normalise_question

    keys = [normalise_question(text or "") for text in frame[column]]
    return frame.with_columns(pl.Series("key", keys, dtype=pl.String))


def counted(expected: pl.DataFrame, found: pl.DataFrame, count: str) -> pl.DataFrame:
    """Every id of either frame, with how often it was found; an id that is not expected counts as -1."""
    known = expected.join(found, on="id", how="left", maintain_order="left").with_columns(
        pl.col(count).cast(pl.Int64).fill_null(0)
    )
    stray = found.join(expected, on="id", how="anti").select("id", pl.lit(-1, dtype=pl.Int64).alias(count))
    return pl.concat([known, stray], how="diagonal")


def share(flags: pl.Series) -> float:
    """Share of true ones, 0 where there are none at all."""
    return float(flags.sum()) / len(flags) if len(flags) else 0.0


def numbers(**values: Any) -> dict[str, float | int | str]:
    """Those values that are known, as observed numbers."""
    return {name: float(value) for name, value in values.items() if value is not None}
