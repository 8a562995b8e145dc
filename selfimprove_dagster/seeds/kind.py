"""Define what a method declares about its seeds: their table, how files are read, how they are sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import polars as pl

from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.rows import Rejected
from selfimprove_dagster.seeds.files import questions
from selfimprove_dagster.shared_tables import SEEDS
from selfimprove_dagster.table import Row, Table
from selfimprove_dagster.text import normalise_question

E = TypeVar("E", bound=Experiment)


@dataclass(frozen=True)
class SeedKind:
    """A kind of seeds.

    `table` holds them. `read` yields the rows of the source that a settings section names, and the rejected
    lines, in order. `reading` names the fields of that section that affect the result. `text` is the column that
    revocations match, and two rows with equal `key` are one seed. `implied` holds further columns of every
    imported seed, with their value. `texts` returns what of a row is trained on, to be compared with what is held
    out; by default it is the `text`. A row may have the field `answer` besides the columns of the table.
    """

    table: Table
    text: str
    read: Callable[[Any], Iterator[Row | Rejected]]
    key: Callable[[Row], str]
    reading: Sequence[str] = ()
    implied: Mapping[str, Any] = field(default_factory=dict)
    texts: Callable[[Row], Sequence[str]] | None = None

    def trained_on(self, row: Row) -> Sequence[str]:
        """Return the texts of a row that are trained on."""
        return [row[self.text]] if self.texts is None else self.texts(row)


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
    method that builds its pool in another way leaves both out. Only a method with `learns_from_answers` can read the
    true answers of its seeds, by `home.imports.answers_of`.
    """

    kind: SeedKind
    pool: Table | None = None
    count: Callable[[E], int] | None = None
    teacher: Teacher[E] | None = None
    learns_from_answers: bool = False


def as_rows(found: Iterable[Any]) -> Iterator[Row | Rejected]:
    """Yield what was read as rows: the fields of each object."""
    return (one if isinstance(one, Rejected) else vars(one) for one in found)


def _questions(source: Any) -> Iterator[Row | Rejected]:
    for one in questions(source):
        if isinstance(one, Rejected):
            yield one
        else:
            answer = {} if one.answer is None else {"answer": one.answer}
            yield {**{name: getattr(one, name) for name in SEEDS.content}, **answer}


QUESTIONS = SeedKind(
    SEEDS,
    "question",
    _questions,
    key=lambda row: normalise_question(row["question"]),
    reading=("question_field", "answer_field", "rows", "longest"),
)
"""Seeds that are questions, from a `QuestionFile`. Their answers, if any, are kept in a table of their own."""
