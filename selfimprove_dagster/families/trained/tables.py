"""The tables of what is trained: the checkpoint, its evaluation, the decision to promote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import polars as pl

from selfimprove_dagster import words
from selfimprove_dagster.column_sources import each, new, of
from selfimprove_dagster.evaluation.judge import VERDICTS
from selfimprove_dagster.quality.judges import EXAM_JUDGE_CHECKS
from selfimprove_dagster.quality.outcomes import (
    EVALUATION_CHECKS,
    FINE_TUNED_CHECKPOINT_CHECKS,
    PERPLEXITY_KEPT,
    PROMOTION_CHECKS,
)
from selfimprove_dagster.table import (
    HELD_OUT,
    LEFT_OUT,
    MIXED,
    PERPLEXITIES,
    TEXT,
    Columns,
    Facts,
    Source,
    Table,
)

TRAINED = ("model_id", "tokens", "first_loss", "final_loss", "log")
"""The columns of a checkpoint that follow from what it was trained on."""

_VALIDATED: dict[str, Any] = {
    HELD_OUT: pl.List(TEXT),
    "validation": pl.List(pl.Struct({"step": pl.Int64, "loss": pl.Float64})),
    "kept_step": pl.Int64,
}

_FORGETTING: dict[str, Any] = {
    MIXED: pl.List(
        pl.Struct({"source_file": TEXT, "checksum": TEXT, "licence": TEXT, "lines": pl.List(pl.Int64)})
    ),
    PERPLEXITIES: pl.List(
        pl.Struct({"role": TEXT, "model_id": TEXT, "perplexity": pl.Float64, "tokens": pl.Int64})
    ),
}

LEARNT = (*TRAINED, LEFT_OUT, *_VALIDATED)
"""The columns of a checkpoint that follow from its dataset, also from what of it was not trained on."""


def checkpoint(
    name: str,
    tag: str,
    dataset: Table,
    learnt_from: Sequence[Source],
    measures: Mapping[str, Any] | None = None,
    **facts: Unpack[Facts],
) -> Table:
    """One row: a model that was trained; parents: its dataset (as a set) and the model it started from. `left_out` are
    the examples that it could not be trained or measured on, by id, each with the problem. `held_out` are the examples
    whose loss was measured in `validation`, in nats, instead, and `kept_step` is the step whose weights are kept; all
    three are null where none was held out.

    `learnt_from` are the columns that it was trained on and measured by. `sources` among the facts go before the
    usual ones.
    """
    usual = {
        **each(of(dataset, "activity_id"), "parents", "dataset_activity_id"),
        **each(learnt_from, *LEARNT, *(measures or {})),
        "examples": of(dataset, "id"),
        **new("base_model_id", "steps", "path", "seconds"),
    }
    given: Facts = {"sentence": words.trained, "checks": FINE_TUNED_CHECKPOINT_CHECKS, **facts}
    given["sources"] = {**usual, **facts.get("sources", {})}
    return Table(
        name,
        tag,
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
            LEFT_OUT: pl.List(pl.Struct({"id": TEXT, "problem": TEXT})),
            **_VALIDATED,
            **(measures or {}),
        },
        later=frozenset({LEFT_OUT, *_VALIDATED, *(_FORGETTING.keys() & (measures or {}).keys())}),
        **given,
    )


def fine_tuned_checkpoint(
    method: str,
    dataset: Table,
    trained_on: Sequence[str] = ("prompt", "completion"),
    **facts: Unpack[Facts],
) -> Table:
    """The checkpoint that an iteration makes, and that later ones may start from.

    `trained_on` are the columns of the dataset that it learns from.
    """
    given: Facts = {"noun": "checkpoint", "sentence": words.trained, "read_later": True, **facts}
    given["checks"] = (*facts.get("checks", FINE_TUNED_CHECKPOINT_CHECKS), PERPLEXITY_KEPT)
    return checkpoint(
        f"{method}/fine_tuned_checkpoint", "ckpt", dataset, of(dataset, *trained_on), _FORGETTING, **given
    )


_ANSWERED: dict[str, Any] = {
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
}


def evaluation(
    method: str,
    checkpoint: Table | None,
    shown: Sequence[Source] = (),
    content: Mapping[str, Any] | None = None,
    measures: Mapping[str, Any] | None = None,
    judged: bool = False,
    **facts: Unpack[Facts],
) -> Table:
    """One row per held-out question, model (champion, challenger) and mode (greedy, majority).

    `shown` are the columns that the exam's prompts show besides the questions, and `content` and `measures` the
    columns that the exam adds. `checkpoint` is None where nothing is trained. `judged`: a model may judge the answers.
    """
    verdicts = VERDICTS if judged else {}
    later = {**verdicts, "problem": TEXT}
    columns, added = {**_ANSWERED, **(content or {})}, {**(measures or {}), **later}
    usual = new("parents", *columns, *added)
    if checkpoint is not None:
        model = of(checkpoint, "model_id")
        usual |= each(model, "parents", "model_id", *(content or {}), *added)
        usual |= each([*model, *shown], "text", "predicted", "correct")
    given: Facts = {
        "noun": "held-out answer",
        "sentence": words.measured_answer,
        "checks": EVALUATION_CHECKS,
        **facts,
    }
    given["sources"] = {**usual, **facts.get("sources", {})}
    if judged:
        given["checks"] = (*given["checks"], *EXAM_JUDGE_CHECKS)
    return Table(
        f"{method}/evaluation",
        "eval",
        content=columns,
        measures=added,
        later=frozenset(later),
        **given,
    )


def promotion(method: str, checkpoint: Table, exam: Table) -> Table:
    """One row: whether the challenger becomes the champion, and why.

    `bound` is the difference that the interval had to lie above, and the columns `base_…` compare the challenger
    with the base model; they are null where the champion is the base model.
    """
    against_base = ("base_accuracy", "base_difference", "base_difference_low", "base_difference_high")
    sources: Columns = {
        "parents": [*of(checkpoint, "id"), *of(exam, "model_id", "activity_id")],
        "challenger_model_id": of(checkpoint, "model_id"),
        "challenger_path": of(checkpoint, "path"),
        "champion_model_id": of(exam, "model_id"),
        **each(
            of(exam, "role", "mode", "question", "correct"),
            *("promoted", "reason", "questions", "gained", "lost"),
            *("champion_accuracy", "challenger_accuracy"),
            *("difference", "difference_low", "difference_high", "p_worse"),
            *against_base,
        ),
        "base_model_id": of(exam, "model_id"),
        **new("champion_path", "rule", "bound"),
    }
    return Table(
        f"{method}/promotion",
        "promo",
        noun="promotion",
        sentence=words.promoted,
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
            "rule": TEXT,
            "bound": pl.Float64,
            "base_model_id": TEXT,
            **dict.fromkeys(against_base, pl.Float64),
        },
        sources=sources,
        checks=PROMOTION_CHECKS,
        later=frozenset({"rule", "bound", "base_model_id", *against_base}),
    )
