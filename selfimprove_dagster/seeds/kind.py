"""Define what a method declares about its seeds: their table, how files are read, how they are sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import polars as pl

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.rows import Rejected
from selfimprove_dagster.seeds.files import read_questions
from selfimprove_dagster.shared_tables import SEEDS
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.text import normalise_question

E = TypeVar("E", bound=Experiment)


@dataclass(frozen=True)
class SeedKind:
    """A kind of seeds.

    `table` holds them. `read` returns the rows of the file that a settings section names, and the rejected
    lines. `reading` names the fields of that section that affect the result. `text` is the column that
    revocations match, and two rows with equal `key` are one seed. `implied` holds further columns of every
    imported seed, with their value.
    """

    table: Table
    text: str
    read: Callable[[Any], tuple[list[Row], list[Rejected]]]
    key: Callable[[Row], str]
    reading: Sequence[str] = ()
    implied: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Teacher(Generic[E]):
    """The way in which seeds come from another experiment, which `Experiment.taught_by` names.

    Both functions take the lake, the learning experiment and its iteration. `newest` returns the partition
    that the seeds come from, None if there is none yet. `seeds` returns the partitions that were read, and
    the seeds with `id` and the columns of the pool; it raises SeedFileError if there are none.
    """

    newest: Callable[[Lake, E, int], Manifest | None]
    seeds: Callable[[Lake, E, int], tuple[list[Manifest], pl.DataFrame]]


@dataclass(frozen=True)
class Seeds(Generic[E]):
    """The seeds of a method.

    `pool` is the table of the seeds of one iteration, and `count` returns how many the experiment requests. A
    method that builds its pool in another way leaves both out.
    """

    kind: SeedKind
    pool: Table | None = None
    count: Callable[[E], int] | None = None
    teacher: Teacher[E] | None = None


def _questions(source: Any) -> tuple[list[Row], list[Rejected]]:
    questions, rejected = read_questions(source)
    return [{name: getattr(one, name) for name in SEEDS.content} for one in questions], rejected


QUESTIONS = SeedKind(
    SEEDS,
    "question",
    _questions,
    key=lambda row: normalise_question(row["question"]),
    reading=("question_field", "rows", "longest"),
)
"""Seeds that are questions without an answer, from a `QuestionFile`."""
