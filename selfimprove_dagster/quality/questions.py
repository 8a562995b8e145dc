"""Checks on questions: the seed pool, and what must never be learnt from."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from selfimprove_dagster import embedded
from selfimprove_dagster.errors import SelfImproveError
from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
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


def _no_empty_text(subject: Subject) -> Evidence:
    return Evidence(
        subject.columns("id", "question", "source_file", "source_line"),
        (Expect("ExpectColumnValuesToMatchRegex", column="question", regex=r"\S"),),
        found="are empty",
        allowed="every question must have text",
        unit="questions",
    )


def _no_duplicate_questions(subject: Subject) -> Evidence:
    rows = with_key(subject.columns("id", "question", "source_file", "source_line"))
    return Evidence(
        rows.select("id", "question", "source_file", "source_line", "key"),
        (Expect("ExpectColumnValuesToBeUnique", column="key"),),
        found="are asked more than once, case and white space aside",
        allowed="every question should be asked once",
        unit="questions",
        observed={"distinct_questions": rows["key"].n_unique()},
    )


def _not_in_pretraining(subject: Subject) -> Evidence | NotApplicable:
    if Path(subject.experiment.model.path) != embedded.BASE_MODEL:
        return NotApplicable("known only of the embedded base model, which this experiment does not use")
    from selfimprove_dagster.embedded import question_hash

    if not embedded.PRETRAINING_QUESTIONS.is_file():
        raise SelfImproveError(
            f"{embedded.PRETRAINING_QUESTIONS} is missing; install the package again or run the recipe"
        )
    known = pl.read_parquet(embedded.PRETRAINING_QUESTIONS, columns=["question_hash"])
    asked = pl.concat(
        [
            subject.columns("id", "question").with_columns(used_for=pl.lit("training")),
            subject.evaluation_questions.select("id", "question").with_columns(used_for=pl.lit("evaluation")),
        ]
    )
    hashes = pl.Series([question_hash(text or "") for text in asked["question"]], dtype=pl.UInt64)
    seen = hashes.is_in(known["question_hash"].cast(pl.UInt64).implode())
    return Evidence(
        asked.with_columns(seen.alias("in_pretraining")),
        (Expect("ExpectColumnValuesToBeInSet", column="in_pretraining", value_set=[False]),),
        found="were in the base model's training data",
        allowed="neither seeds nor evaluation questions may be",
        unit="questions of seed pool and evaluation file",
        observed={"pretraining_questions": known.height},
    )


NO_OVERLAP = QualityCheck(
    "no_overlap_with_evaluation",
    True,
    "No question is one of the evaluation file's, case and white space aside.",
    "Take these questions out of the seed file or out of the evaluation file, then start a new experiment",
    no_overlap_with_evaluation,
)


SEED_POOL_CHECKS = (
    QualityCheck(
        "no_empty_text",
        True,
        "Every question has text.",
        "Mend the lines of the seed file that the table names",
        _no_empty_text,
    ),
    QualityCheck(
        "no_duplicate_questions",
        False,
        "No question is asked twice, case and white space aside.",
        "Take the copies out of the seed file: a question counts as often as it is asked",
        _no_duplicate_questions,
    ),
    NO_OVERLAP,
    QualityCheck(
        "not_in_pretraining",
        True,
        "The embedded base model was trained on none of the questions of seed pool and evaluation file.",
        "Make the pools again with the embedded model's recipe",
        _not_in_pretraining,
    ),
)
