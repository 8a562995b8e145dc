"""The table: its columns, and every fact about it that a shared room needs.

A table belongs to one stage of one method and is named `<method>/<stage>`. What people read of its rows, what is
checked of them, where their columns come from and how they were drawn is declared here, so that no other module has
to know the table by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import polars as pl

from selfimprove_dagster import words

Row = dict[str, Any]

PARENT = pl.Struct({"id": pl.String, "role": pl.String})


COMMON_COLUMNS: dict[str, Any] = {
    "id": pl.String,
    "content_hash": pl.String,
    "parents": pl.List(PARENT),
    "activity_id": pl.String,
    "sample_index": pl.Int32,
}


MODEL_COLUMNS = frozenset({"model_id", "base_model_id", "dataset_activity_id", "path"})
"""What the rows of trained models say: what each was trained from and on, and where it lies."""


Source = tuple[str, str]
"""A table's name and one of its columns."""


Columns = Mapping[str, Sequence[Source]]
"""For each column the columns that its values come from."""


@dataclass(frozen=True)
class Draw:
    """How the completions of a table are drawn, from the settings that their activity records.

    `section` names the part of the activity's parameters that holds the sampling settings. `stops` are the strings
    that end a completion, or a function of the section that gives them. A temperature is read from the section, or
    from beside it where a stage chooses between several; without one, a completion is drawn greedily.
    """

    section: str
    stops: Sequence[str] | Callable[[Mapping[str, Any]], Sequence[str]] = ()


@dataclass(frozen=True)
class Reviewed:
    """How the rows of a table become pairs that people compare.

    `items` takes the lake and the manifest of a partition, and returns the columns of `review.uncertainty.ITEM`.
    `prompt` and `options` are the columns of the texts that people are shown.
    """

    items: Callable[[Any, Any], pl.DataFrame]
    prompt: Sequence[Source]
    options: Sequence[Source]


@dataclass(frozen=True)
class Table:
    """One table of the lake.

    `name` is `<method>/<stage>` and `tag` opens the ids of its records. `content` columns are hashed into ids,
    `measures` are not. `noun` is what people call a row. `sentence` says in words what happened at the stage of a
    row, `said` what the row says, in short; both take a row of `Lineage.rows`. `sources` gives the columns that each
    column comes from. `checks` (each a `quality.results.QualityCheck`) run beside those that every table has. `draw`
    is set where a model drew the rows. A table with `is_asset` False is written beside its stage's own table and has
    no Dagster asset of its own. `read_later`: later iterations build on its rows. `made_with` names the table of the
    same stage whose rows have parents in this one's rows, and the reverse.
    `reviewed` is set where people are asked about its rows.
    """

    name: str
    tag: str
    content: Mapping[str, Any]
    measures: Mapping[str, Any] = field(default_factory=dict)
    noun: str = "row"
    sentence: Callable[[Row], str] | None = field(default=None, repr=False)
    said: Callable[[Row], str] | None = field(default=None, repr=False)
    sources: Columns = field(default_factory=dict, repr=False)
    checks: Sequence[Any] = field(default=(), repr=False)
    draw: Draw | None = field(default=None, repr=False)
    is_asset: bool = True
    read_later: bool = False
    made_with: str = ""
    reviewed: Reviewed | None = field(default=None, repr=False)

    @property
    def method(self) -> str:
        """The part of the name before the slash."""
        return self.name.split("/")[0]

    @property
    def stage(self) -> str:
        """The part of the name after the slash."""
        return self.name.split("/")[1]

    @property
    def holds_model(self) -> bool:
        """Whether its rows are trained models."""
        return {*self.content, *self.measures} >= MODEL_COLUMNS

    @property
    def polars(self) -> dict[str, Any]:
        """All columns with their Polars types, in the order in which they are stored."""
        return {**COMMON_COLUMNS, **self.content, **self.measures}


class Words(TypedDict, total=False):
    """How people are told of the rows of a table."""

    noun: str
    sentence: Callable[[Row], str] | None
    said: Callable[[Row], str] | None


class Facts(Words, total=False):
    """The facts about a table that functions which build tables of one kind hand on."""

    sources: Columns
    checks: Sequence[Any]
    draw: Draw | None
    read_later: bool
    made_with: str
    reviewed: Reviewed | None


TEXT = pl.String
SOURCE: dict[str, Any] = {"source_file": TEXT, "source_line": pl.Int64, "licence": TEXT}


DRAWN: dict[str, Any] = {
    "prompt": TEXT,
    "prompt_token_ids": pl.List(pl.Int32),
    "token_ids": pl.List(pl.Int32),
    "text": TEXT,
    "finish_reason": TEXT,
    "seed": pl.Int64,
}
"""What is kept of a completion that a model drew, so that it can be drawn again."""


def completions(
    name: str, tag: str, content: Mapping[str, Any] | None = None, **facts: Unpack[Facts]
) -> Table:
    """Completions drawn from a model, with the log-probability of each token; columns of `content` come first."""
    given: Facts = {"noun": "completion", "sentence": words.drawn, **facts}
    return Table(
        name, tag, content={**(content or {}), **DRAWN}, measures={"logprobs": pl.List(pl.Float32)}, **given
    )


def decisions(name: str, **facts: Unpack[Facts]) -> Table:
    """What each filter rule decided on each candidate that reached it; parent: the candidate."""
    given: Facts = {"noun": "decision", "sentence": words.decided, **facts}
    return Table(
        name,
        "dec",
        content={
            "stage": TEXT,
            "candidate_id": TEXT,
            "rule": TEXT,
            "kept": pl.Boolean,
            "reason": TEXT,
            "nearest_id": TEXT,
        },
        measures={"score": pl.Float64, "threshold": pl.Float64},
        is_asset=False,
        **given,
    )


DATASET = "filtered_dataset"
"""The stage of the dataset, in every method that makes one under its usual name."""


def is_decisions(table: Table) -> bool:
    """Whether the rows say what a rule decided about a candidate."""
    return {"candidate_id", "rule", "kept", "reason"} <= table.content.keys()


def is_measured(table: Table) -> bool:
    """Whether the rows are measurements of models: held-out answers, or a promotion."""
    return {"role", "mode", "predicted"} <= table.content.keys() or "promoted" in table.content


def dataset_of(tables: Mapping[str, Table]) -> Table | None:
    """The table of training examples, or else the last one that is neither decisions nor a measurement."""
    if DATASET in tables:
        return tables[DATASET]
    rows = [one for one in tables.values() if not (is_decisions(one) or one.holds_model or is_measured(one))]
    return rows[-1] if rows else None


_TEXTS = ("chosen", "completion", "paraphrase", "text", "statement", "instruction", "prompt", "question")
"""Columns that hold what a row says, the first one that is there."""

_NO_TEXTS = (
    *("id", "content_hash", "parents", "table_name", "activity", "experiment", "iteration", "batch"),
    *("source_file", "licence"),
)
"""Columns that say where a row stands, not what it says."""


def sentence_of(table: Table | None, row: Row) -> str:
    """What happened at the stage of a row, in words; the row is one of `Lineage.rows`."""
    if table is not None and table.sentence is not None:
        return table.sentence(row)
    text = said_of(table, row)
    return words.quoted(text) if text else ""


def said_of(table: Table | None, row: Row) -> str:
    """What a row says, in short: its main text; empty where it has none."""
    if table is not None and table.said is not None:
        return table.said(row)
    named = [name for name in _TEXTS if name in row]
    other = [
        name for name in (table.content if table else row) if name not in _NO_TEXTS and "_id" not in name
    ]
    texts = (row.get(name) for name in named or other)
    return next((text.strip() for text in texts if isinstance(text, str) and text), "")
