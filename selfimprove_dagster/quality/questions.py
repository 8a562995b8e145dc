"""The check that nothing is learnt from what is held out."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.quality.results import Evidence, Expect, QualityCheck
from selfimprove_dagster.quality.subject import Subject, with_key


def no_overlap_with_evaluation(subject: Subject, column: str = "question") -> Evidence:
    """For every table with such a column: none of its questions is held out for evaluation."""
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
        found="ask a question of the evaluation file",
        allowed=f"none of the {held_out.height:,} questions held out may be learnt from",
        observed={"evaluation_questions": held_out.height},
    )


NO_OVERLAP = QualityCheck(
    "no_overlap_with_evaluation",
    True,
    "No question is one of the evaluation file's, case and white space aside.",
    "Take these questions out of the seed file or out of the evaluation file, then start a new experiment",
    no_overlap_with_evaluation,
)
