"""Define the check that no held-out question is used for training."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.quality.results import Evidence, Expect, QualityCheck
from selfimprove_dagster.quality.subject import Subject, with_key


def no_overlap_with_evaluation(subject: Subject, column: str = "question") -> Evidence:
    """Check, for any table with such a column, that none of its questions is held out for evaluation."""
    held_out = subject.evaluation_questions.select("key", evaluation_question="id").unique(
        "key", keep="first"
    )
    rows = with_key(subject.columns("id", column), column).join(
        held_out, on="key", how="left", maintain_order="left"
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
    "No question is in the evaluation file, ignoring case and white space.",
    "Remove these questions from the seed file or from the evaluation file, then start a new experiment",
    no_overlap_with_evaluation,
)
