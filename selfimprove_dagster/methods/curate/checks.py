"""Checks of the tables of the method `curate`: lines, candidates, scores, votes, dataset."""

from __future__ import annotations

from functools import partial

import polars as pl

from selfimprove_dagster.families.tasks.checks import PARSED_CHECKS
from selfimprove_dagster.families.voting.counting import COUNTED, recount
from selfimprove_dagster.methods.curate.settings import CurateExperiment
from selfimprove_dagster.quality.completions import PERPLEXITY_RANGE, RATING_RANGE
from selfimprove_dagster.quality.dataset import (
    AGAIN,
    LENGTH_DRIFT_CHECK,
    LITTLE_OVERLAP,
    NO_EMPTY_TEXT,
    NOT_EMPTY,
    VOCABULARY_DRIFT_CHECK,
    decisions_complete,
)
from selfimprove_dagster.quality.questions import NO_OVERLAP
from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted

_AGAIN = "Materialise the stage again"

_UNUSED = NotApplicable("no filter of this experiment asks for it")


def _experiment(subject: Subject) -> CurateExperiment:
    assert isinstance(subject.experiment, CurateExperiment)
    return subject.experiment


def _has_text(subject: Subject) -> Evidence:
    return Evidence(
        subject.columns("id", "instruction", "source_file", "source_line"),
        (Expect("ExpectColumnValuesToMatchRegex", column="instruction", regex=r"\S"),),
        found="have no text",
        allowed="every line must have some",
        unit="lines",
    )


def _one_per_candidate(subject: Subject, used: str) -> Evidence | NotApplicable:
    if not getattr(_experiment(subject), used):
        return _UNUSED
    usable = subject.sibling("candidate_answers", "id", "problem").filter(pl.col("problem").is_null())
    found = subject.columns("candidate_id").group_by(id="candidate_id").agg(rows=pl.len())
    return Evidence(
        counted(usable.select("id"), found, "rows"),
        (Expect("ExpectColumnValuesToBeBetween", column="rows", min_value=1, max_value=1),),
        found="have no row, several, or are not among the usable answers",
        allowed="each must have one",
        unit="answers",
    )


def _votes_add_up(subject: Subject) -> Evidence | NotApplicable:
    if _experiment(subject).votes_by is None:
        return _UNUSED
    rows = subject.columns("id", *COUNTED)
    problems = [recount(row) or "none" for row in rows.iter_rows(named=True)]
    return Evidence(
        rows.select("id", "voted_answer").with_columns(pl.Series("problem", problems, dtype=pl.String)),
        (Expect("ExpectColumnValuesToBeInSet", column="problem", value_set=["none"]),),
        found="do not follow from their answers",
        allowed="counting the answers again must give the same vote",
        unit="votes",
    )


POOL_CHECKS = (
    QualityCheck("has_text", True, "Every line has text.", "Fix the lines that the table names", _has_text),
)


CANDIDATES_CHECKS = PARSED_CHECKS


PERPLEXITY_CHECKS = (
    QualityCheck(
        "one_score_a_candidate",
        True,
        "Each usable answer has one score, if a filter asks for perplexities.",
        _AGAIN,
        partial(_one_per_candidate, used="measures_perplexity"),
    ),
    PERPLEXITY_RANGE,
)


RATINGS_CHECKS = (
    QualityCheck(
        "one_rating_a_candidate",
        True,
        "Each usable answer has one rating, if a filter asks for ratings.",
        _AGAIN,
        partial(_one_per_candidate, used="rates"),
    ),
    RATING_RANGE,
)


VOTES_CHECKS = (
    QualityCheck(
        "votes_recount", True, "Counting the answers again gives the same vote.", _AGAIN, _votes_add_up
    ),
)


DATASET_CHECKS = (
    NOT_EMPTY,
    NO_EMPTY_TEXT,
    NO_OVERLAP,
    LITTLE_OVERLAP,
    LENGTH_DRIFT_CHECK,
    VOCABULARY_DRIFT_CHECK,
    QualityCheck(
        "decisions_complete",
        True,
        "Every answer has a decision, and no dropped answer is in the dataset.",
        AGAIN,
        partial(decisions_complete, candidates="candidate_answers"),
    ),
)
