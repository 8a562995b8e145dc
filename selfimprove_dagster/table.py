"""The table: its columns, and every fact about it that a shared room needs.

A table belongs to one stage of one method and is named `<method>/<stage>`. What people read of its rows, what is
checked of them, where their columns come from and how they were drawn is declared here, so that no other module has
to know the table by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
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


Columns = Mapping[str, Sequence[tuple[str, str]]]
"""For each column the columns that its values come from, each as (table, column)."""


@dataclass(frozen=True)
class Draw:
    """How the completions of a table are drawn, from the settings that their activity records.

    `section` names the part of the activity's parameters that holds the sampling settings; `stops` gives the
    strings that end a completion. A section without a temperature draws greedily.
    """

    section: str
    stops: Callable[[Mapping[str, Any]], Sequence[str]]


@dataclass(frozen=True)
class Table:
    """One table of the lake.

    `name` is `<method>/<stage>` and `tag` opens the ids of its records. `content` columns are hashed into ids,
    `measures` are not. `noun` is what people call a row, `sentence` what a row says in words. `sources` gives the
    columns that each column comes from. `checks` run beside those that every table has. `draw` is set where a model
    drew the rows. A table with `is_asset` False is written beside its stage's own table and has no Dagster asset of
    its own. `holds_model`: its rows are trained models. `read_later`: later iterations build on its rows.
    """

    name: str
    tag: str
    content: Mapping[str, Any]
    measures: Mapping[str, Any] = field(default_factory=dict)
    noun: str = "row"
    sentence: Callable[[Row], str] | None = field(default=None, repr=False)
    sources: Columns = field(default_factory=dict, repr=False)
    checks: Sequence[QualityCheck] = field(default=(), repr=False)
    draw: Draw | None = field(default=None, repr=False)
    is_asset: bool = True
    holds_model: bool = False
    read_later: bool = False

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


def completions(name: str, tag: str, noun: str = "completion", **columns: Any) -> Table:
    """Completions drawn from a model, with the log-probability of each token; `columns` stand before them."""
    return Table(
        name, tag, noun=noun, content={**columns, **DRAWN}, measures={"logprobs": pl.List(pl.Float32)}
    )


def decisions(name: str, tag: str = "dec") -> Table:
    """What each filter rule said of each candidate that reached it; parent: the candidate."""
    return Table(
        name,
        tag,
        noun="decision",
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
    )


def fine_tuned_checkpoint(method: str) -> Table:
    """One row: the model that was trained; parents: its dataset (as a set) and the model it started from."""
    return Table(
        f"{method}/fine_tuned_checkpoint",
        "ckpt",
        noun="checkpoint",
        content={
            "model_id": TEXT,
            "base_model_id": TEXT,
            "dataset_activity_id": TEXT,
            "examples": pl.Int64,
            "steps": pl.Int64,
        },
        measures={
            "path": TEXT,
            "tokens": pl.Int64,
            "seconds": pl.Float64,
            "first_loss": pl.Float64,
            "final_loss": pl.Float64,
            "log": pl.List(pl.Struct({"step": pl.Float64, "loss": pl.Float64, "learning_rate": pl.Float64})),
        },
    )


def evaluation(
    method: str,
    content: Mapping[str, Any] | None = None,
    measures: Mapping[str, Any] | None = None,
    noun: str = "held-out answer",
) -> Table:
    """One row a held-out question, model (champion, challenger) and mode (greedy, majority).

    A method whose exam tells more adds columns.
    """
    return Table(
        f"{method}/evaluation",
        "eval",
        noun=noun,
        content={
            "question": TEXT,
            "source_file": TEXT,
            "source_line": pl.Int64,
            "difficulty": TEXT,
            "expected": TEXT,
            "role": TEXT,
            "model_id": TEXT,
            "mode": TEXT,
            "predicted": TEXT,
            "text": TEXT,
            "correct": pl.Boolean,
            **(content or {}),
        },
        measures=measures or {},
    )


def promotion(method: str) -> Table:
    """One row: whether the challenger becomes the champion, and why."""
    return Table(
        f"{method}/promotion",
        "promo",
        noun="promotion",
        content={
            "promoted": pl.Boolean,
            "reason": TEXT,
            "challenger_model_id": TEXT,
            "champion_model_id": TEXT,
            "questions": pl.Int64,
            "gained": pl.Int64,
            "lost": pl.Int64,
        },
        measures={
            "champion_path": TEXT,
            "challenger_path": TEXT,
            "champion_accuracy": pl.Float64,
            "challenger_accuracy": pl.Float64,
            "difference": pl.Float64,
            "difference_low": pl.Float64,
            "difference_high": pl.Float64,
            "p_worse": pl.Float64,
        },
    )
