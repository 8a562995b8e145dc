"""Tables that every method has, built for the method that asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

Row = dict[str, Any]


PARENT = pl.Struct({"id": pl.String, "role": pl.String})


COMMON_COLUMNS: dict[str, Any] = {
    "id": pl.String,
    "content_hash": pl.String,
    "parents": pl.List(PARENT),
    "activity_id": pl.String,
    "sample_index": pl.Int32,
}


@dataclass(frozen=True)
class TableSchema:
    """Columns of one table; `tag` opens the ids of its records."""

    name: str
    tag: str
    content: Mapping[str, Any]
    measures: Mapping[str, Any] = field(default_factory=dict)

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


def completions(name: str, tag: str, **columns: Any) -> TableSchema:
    """Completions drawn from a model, with the log-probability of each token; `columns` stand before them."""
    return TableSchema(name, tag, content={**columns, **DRAWN}, measures={"logprobs": pl.List(pl.Float32)})


def decisions(name: str, tag: str = "dec") -> TableSchema:
    """What each filter rule said of each candidate that reached it; parent: the candidate."""
    return TableSchema(
        name,
        tag,
        content={
            "stage": TEXT,
            "candidate_id": TEXT,
            "rule": TEXT,
            "kept": pl.Boolean,
            "reason": TEXT,
            "nearest_id": TEXT,
        },
        measures={"score": pl.Float64, "threshold": pl.Float64},
    )


def fine_tuned_checkpoint(method: str) -> TableSchema:
    """One row: the model that was trained; parents: its dataset (as a set) and the model it started from."""
    return TableSchema(
        f"{method}/fine_tuned_checkpoint",
        "ckpt",
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
    method: str, content: Mapping[str, Any] | None = None, measures: Mapping[str, Any] | None = None
) -> TableSchema:
    """One row a held-out question, model (champion, challenger) and mode (greedy, majority).

    A method whose exam tells more adds columns.
    """
    return TableSchema(
        f"{method}/evaluation",
        "eval",
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


def promotion(method: str) -> TableSchema:
    """One row: whether the challenger becomes the champion, and why."""
    return TableSchema(
        f"{method}/promotion",
        "promo",
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
