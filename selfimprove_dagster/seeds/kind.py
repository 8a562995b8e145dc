"""What a method declares of its seeds: what they are, how a file of them is read, and how they are drawn."""

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
    """What seeds are.

    `table` holds them. `read` gives the rows of the file that a section of settings names, and the lines that are
    none; `reading` names the fields of that section that shape what comes out. `text` is the column whose text a
    revocation names, and two rows with the same `key` are one seed. `implied` are columns that every imported seed
    has besides, with their value.
    """

    table: Table
    text: str
    read: Callable[[Any], tuple[list[Row], list[Rejected]]]
    key: Callable[[Row], str]
    reading: Sequence[str] = ()
    implied: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Teacher(Generic[E]):
    """How seeds come from another experiment, the one that `Experiment.taught_by` names.

    Both take the lake, the experiment that learns and its iteration. `newest` gives the partition that the seeds
    come from, None where there is none yet. `seeds` gives the partitions that were read and the seeds, with `id` and
    the columns of the pool; it raises SeedFileError where there are none.
    """

    newest: Callable[[Lake, E, int], Manifest | None]
    seeds: Callable[[Lake, E, int], tuple[list[Manifest], pl.DataFrame]]


@dataclass(frozen=True)
class Seeds(Generic[E]):
    """What a method begins with.

    `pool` is the table of the seeds of one iteration and `count` how many the experiment asks for; a method that
    makes its pool in another way leaves them out.
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
"""Questions without an answer, from a `QuestionFile`."""
