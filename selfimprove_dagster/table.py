"""Define tables: their columns, and every fact about them that shared modules need.

A table belongs to one stage of one method and is named `<method>/<stage>`. It declares how its rows are
described and checked, where their columns come from and how they were generated, so that no other module has
to know the table by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
"""Columns of trained models: what each was trained from and on, and where it is stored."""


Source = tuple[str, str]
"""The name of a table and one of its columns."""


Columns = Mapping[str, Sequence[Source]]
"""Maps each column to the columns that its values come from."""


@dataclass(frozen=True)
class Draw:
    """The way in which the completions of a table are generated, from the settings that their activity
    records.

    `section` names the part of the activity's parameters with the sampling settings. `prompt` names the
    method's prompt whose stop strings end a completion, or returns its name for the section; `prompt_of` returns it
    for a row, if the rows of a table follow several prompts. `stops` returns further stop strings for the section. The
    temperature is read from the section, or from next to it if a stage chooses between several; without a
    temperature, decoding is greedy.
    """

    section: str
    prompt: str | Callable[[Mapping[str, Any]], str] = ""
    stops: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    prompt_of: Callable[[Mapping[str, Any]], str] | None = None


@dataclass(frozen=True)
class Reviewed:
    """The way in which the rows of a table become pairs that people compare.

    `items` takes the lake and the manifest of a partition, and returns the columns of
    `review.uncertainty.ITEM`. `prompt` and `options` are the columns of the texts that people see.
    """

    items: Callable[[Any, Any], pl.DataFrame]
    prompt: Sequence[Source]
    options: Sequence[Source]


@dataclass(frozen=True)
class Table:
    """A table of the lake.

    `name` is `<method>/<stage>`, and `tag` starts the ids of its records. `content` columns are hashed into
    ids, `measures` are not. `noun` is the name of a row. `sentence` describes what happened at the stage of a
    row, and `said` returns the content of the row in short; both take a row of `Lineage.rows`. `sources` maps
    each column to its source columns. `checks` (each a `quality.results.QualityCheck`) run in addition to
    those of every table. `draw` is set if a model generated the rows. A table with `is_asset` False is
    written next to its stage's own table and has no Dagster asset. `read_later`: later iterations use its
    rows. `made_with` names the table of the same stage whose rows have parents among this one's rows, and the
    reverse. `reviewed` is set if people review its rows. `later` are measures that partitions of earlier
    versions lack, and drafts may leave out.
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
    later: frozenset[str] = frozenset()

    @property
    def method(self) -> str:
        """Return the part of the name before the slash."""
        return self.name.split("/")[0]

    @property
    def stage(self) -> str:
        """Return the part of the name after the slash."""
        return self.name.split("/")[1]

    @property
    def holds_model(self) -> bool:
        """Return whether its rows are trained models."""
        return {*self.content, *self.measures} >= MODEL_COLUMNS

    @property
    def polars(self) -> dict[str, Any]:
        """Return all columns with their Polars types, in stored order."""
        return {**COMMON_COLUMNS, **self.content, **self.measures}

    def stored(self, columns: Collection[str]) -> dict[str, Any]:
        """Return the columns with their types for rows with these `columns`, which may lack `later` ones."""
        return {
            name: dtype for name, dtype in self.polars.items() if name in columns or name not in self.later
        }


class Words(TypedDict, total=False):
    """The fields that describe the rows of a table to people."""

    noun: str
    sentence: Callable[[Row], str] | None
    said: Callable[[Row], str] | None


class Facts(Words, total=False):
    """The facts about a table that functions for building tables pass on."""

    sources: Columns
    checks: Sequence[Any]
    draw: Draw | None
    read_later: bool
    made_with: str
    reviewed: Reviewed | None


TEXT = pl.String
PROBLEM: dict[str, Any] = {"problem": TEXT}
"""The measure of a table whose rows may fail: why a row could not be generated or scored. It is a `later` one."""


LEFT_OUT = "left_out"
"""The measure of a trained model: examples that it could not be trained on, as `id` and `problem`. A `later` one."""


HELD_OUT = "held_out"
"""The measure of a trained model: ids of examples that its loss was measured on in place of training. A `later` one."""


MIXED = "mixed"
"""The measure of a checkpoint: the general examples that it was trained on, by file and line. A `later` one."""


PERPLEXITIES = "perplexities"
"""The measure of a checkpoint: the perplexities of a plain text under the base model, the champion and the checkpoint.
A `later` one."""


TRAINED_ON = "trained_on"
"""The role of a dataset among the parents of a trained model; earlier iterations' come after its own."""


def datasets_of(model: Mapping[str, Any]) -> list[str]:
    """Return the activities of all datasets that a trained model learnt from."""
    return [edge["id"] for edge in model["parents"] if edge["role"] == TRAINED_ON]


def not_learnt(model: Mapping[str, Any]) -> dict[str, str]:
    """Return the examples that a trained model did not learn from, by id, each with the reason."""
    left_out = {one["id"]: f"it was left out, since {one['problem']}" for one in model.get(LEFT_OUT) or ()}
    held_out = model.get(HELD_OUT) or ()
    return left_out | dict.fromkeys(held_out, "it was held out, and the loss was measured on it")


SOURCE: dict[str, Any] = {"source_file": TEXT, "source_line": pl.Int64, "licence": TEXT}


DRAWN: dict[str, Any] = {
    "prompt": TEXT,
    "prompt_token_ids": pl.List(pl.Int32),
    "token_ids": pl.List(pl.Int32),
    "text": TEXT,
    "finish_reason": TEXT,
    "seed": pl.Int64,
}
"""Columns of a completion that allow it to be regenerated."""


def completions(
    name: str, tag: str, content: Mapping[str, Any] | None = None, **facts: Unpack[Facts]
) -> Table:
    """Return a table of completions with log-probabilities of tokens; columns of `content` come first.

    The measure `problem` tells why a completion could not be generated, unless `content` has such a column, and
    `served` which version of a provider's model answered, on the system with which `fingerprint`, and `answered_at`
    when (UTC, ISO 8601). In older partitions `served` has all three.
    """
    given: Facts = {"noun": "completion", "sentence": words.drawn, **facts}
    columns = {**(content or {}), **DRAWN}
    why = {} if "problem" in columns else {"problem": TEXT}
    why |= dict.fromkeys(("served", "fingerprint", "answered_at"), TEXT)
    if "finish_reason" in (sources := given.get("sources", {})):
        given["sources"] = {**sources, **dict.fromkeys(why, sources["finish_reason"])}
    return Table(
        name,
        tag,
        content=columns,
        measures={"logprobs": pl.List(pl.Float32), **why},
        later=frozenset(why),
        **given,
    )


def decisions(name: str, **facts: Unpack[Facts]) -> Table:
    """Return a table of the decisions of each filter rule on each candidate that reached it, its parent."""
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
"""The usual name of the dataset stage."""


def is_decisions(table: Table) -> bool:
    """Return whether the rows are decisions of rules on candidates."""
    return {"candidate_id", "rule", "kept", "reason"} <= table.content.keys()


def is_measured(table: Table) -> bool:
    """Return whether the rows are measurements of models: held-out answers, or a promotion."""
    return {"role", "mode", "predicted"} <= table.content.keys() or "promoted" in table.content


def dataset_of(tables: Mapping[str, Table]) -> Table | None:
    """Return the table of training examples, or else the last table except decisions and measurements."""
    if DATASET in tables:
        return tables[DATASET]
    rows = [one for one in tables.values() if not (is_decisions(one) or one.holds_model or is_measured(one))]
    return rows[-1] if rows else None


_TEXTS = ("chosen", "completion", "paraphrase", "text", "statement", "instruction", "prompt", "question")
"""Candidate names for the main text column, in order of preference."""

_NO_TEXTS = (
    *("id", "content_hash", "parents", "table_name", "activity", "experiment", "iteration", "batch"),
    *("source_file", "licence"),
)
"""Columns that locate a row and are not part of its content."""


def sentence_of(table: Table | None, row: Row) -> str:
    """Describe what happened at the stage of a row of `Lineage.rows`."""
    if table is not None and table.sentence is not None:
        return table.sentence(row)
    text = said_of(table, row)
    return words.quoted(text) if text else ""


def said_of(table: Table | None, row: Row) -> str:
    """Return the content of a row in short, i.e. its main text; empty if it has none."""
    if table is not None and table.said is not None:
        return table.said(row)
    named = [name for name in _TEXTS if name in row]
    other = [
        name for name in (table.content if table else row) if name not in _NO_TEXTS and "_id" not in name
    ]
    texts = (row.get(name) for name in named or other)
    return next((text.strip() for text in texts if isinstance(text, str) and text), "")
