"""The table: its columns, and every fact about it that a shared room needs.

A table belongs to one stage of one method and is named `<method>/<stage>`. What people read of its rows, what is
checked of them, where their columns come from and how they were drawn is declared here, so that no other module has
to know the table by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import polars as pl

from selfimprove_dagster import words

if TYPE_CHECKING:
    from selfimprove_dagster.lake.lake import Lake
    from selfimprove_dagster.lake.partition import Manifest
    from selfimprove_dagster.quality.results import QualityCheck

Row = dict[str, Any]

PARENT = pl.Struct({"id": pl.String, "role": pl.String})


COMMON_COLUMNS: dict[str, Any] = {
    "id": pl.String,
    "content_hash": pl.String,
    "parents": pl.List(PARENT),
    "activity_id": pl.String,
    "sample_index": pl.Int32,
}


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

    `items` reads a partition and returns the columns of `review.uncertainty.ITEM`. `prompt` and `options` are the
    columns of the texts that people are shown.
    """

    items: Callable[[Lake, Manifest], pl.DataFrame]
    prompt: Sequence[Source]
    options: Sequence[Source]


@dataclass(frozen=True)
class Table:
    """One table of the lake.

    `name` is `<method>/<stage>` and `tag` opens the ids of its records. `content` columns are hashed into ids,
    `measures` are not. `noun` is what people call a row. `sentence` says in words what happened at the stage of a
    row, `said` what the row says, in short; both take a row of `Lineage.rows`. `sources` gives the columns that each
    column comes from. `checks` run beside those that every table has. `draw` is set where a model
    drew the rows. A table with `is_asset` False is written beside its stage's own table and has no Dagster asset of
    its own. `holds_model`: its rows are trained models. `read_later`: later iterations build on its rows.
    `made_with` names the table of the same stage whose rows have parents in this one's rows, and the reverse.
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
    checks: Sequence[QualityCheck] = field(default=(), repr=False)
    draw: Draw | None = field(default=None, repr=False)
    is_asset: bool = True
    holds_model: bool = False
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
    checks: Sequence[QualityCheck]
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


def is_model(table: Table) -> bool:
    """Whether the rows are trained models."""
    return table.holds_model or {"model_id", "base_model_id", "examples", "steps"} <= table.content.keys()


def is_measured(table: Table) -> bool:
    """Whether the rows are measurements of models: held-out answers, or a promotion."""
    return {"role", "mode", "predicted"} <= table.content.keys() or "promoted" in table.content


def dataset_of(tables: Mapping[str, Table]) -> Table | None:
    """The table of training examples, or else the last one that is neither decisions nor a measurement."""
    if DATASET in tables:
        return tables[DATASET]
    rows = [one for one in tables.values() if not (is_decisions(one) or is_model(one) or is_measured(one))]
    return rows[-1] if rows else None
