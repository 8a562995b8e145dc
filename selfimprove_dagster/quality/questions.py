"""Define the check that no held-out question is used for training."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.filters.contamination import text_keys
from selfimprove_dagster.quality.results import Evidence, Expect, QualityCheck
from selfimprove_dagster.quality.subject import Subject


def no_overlap_with_evaluation(subject: Subject, column: str = "question") -> Evidence:
    """Check, for any table with such a column, that none of its questions is held out for evaluation."""
    held_out = subject.evaluation_questions.select("question", evaluation_question="id")
    held_out = held_out.with_columns(key=pl.Series(text_keys(held_out["question"]), dtype=pl.String)).unique(
        "key", keep="first"
    )
    rows = subject.columns("id", column)
    rows = rows.with_columns(key=pl.Series(text_keys(rows[column].fill_null("")), dtype=pl.String)).join(
        held_out.select("key", "evaluation_question"), on="key", how="left", maintain_order="left"
    )
    return Evidence(
        rows.select(
            "id", column, "evaluation_question", held_out=pl.col("evaluation_question").is_not_null()
        ),
        (Expect("ExpectColumnValuesToBeInSet", column="held_out", value_set=[False]),),
        found="have a question of the evaluation file",
        allowed=f"none of the {held_out.height:,} held-out questions may be used for training",
        observed={"evaluation_questions": held_out.height},
    )


NO_OVERLAP = QualityCheck(
    "no_overlap_with_evaluation",
    True,
    "No question is in the evaluation file; case, punctuation and Unicode forms make no difference.",
    "Remove these questions from the seed file or from the evaluation file, or set `decontamination: {}`, which "
    "rejects such seeds; then start a new experiment",
    no_overlap_with_evaluation,
)
