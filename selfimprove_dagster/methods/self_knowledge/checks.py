"""Checks on generation against discrimination: questions, candidates, both scores, and the gap."""

from __future__ import annotations

from functools import partial

import polars as pl

from selfimprove_dagster.families.dialogues.checks import AGAIN, ROUNDING, has_text
from selfimprove_dagster.quality.completions import COMPLETION_CHECKS
from selfimprove_dagster.quality.results import Evidence, Expect, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted

MOST_UNREAD = 0.5


def _candidates_drawn(subject: Subject) -> Evidence:
    each = subject.manifest.activity.parameters["candidates"]["count"]
    found = subject.columns("question_id").group_by(id="question_id").agg(candidates=pl.len())
    return Evidence(
        counted(subject.sibling("questions", "id", "question"), found, "candidates"),
        (Expect("ExpectColumnValuesToBeInSet", column="candidates", value_set=[each]),),
        found="have more or fewer candidates, or were never asked",
        allowed=f"each question has {each}",
        unit="questions",
    )


def _one_score_a_question(subject: Subject) -> Evidence:
    drawn = subject.sibling("candidates", "question_id").unique(maintain_order=True)
    found = subject.columns("question_id").group_by(id="question_id").agg(scores=pl.len())
    return Evidence(
        counted(drawn.select(id="question_id"), found, "scores"),
        (Expect("ExpectColumnValuesToBeInSet", column="scores", value_set=[1]),),
        found="have no score, several, or no candidates",
        allowed="each question with candidates has one",
        unit="questions",
    )


def _score_is_share(subject: Subject) -> Evidence:
    rows = subject.columns("id", "right", "score", "unread")
    off = (pl.col("score") - pl.col("right").list.mean()).abs()
    return Evidence(
        rows.select("id", "score", off=off),
        (Expect("ExpectColumnValuesToBeBetween", column="off", max_value=ROUNDING),),
        found="have a score that is not the share of their candidates that is right",
        allowed="it must be that share",
        unit="questions",
        observed={"mean_score": float(rows["score"].mean() or 0.0), "unread": int(rows["unread"].sum())},  # type: ignore[arg-type]
    )


def _picks_made(subject: Subject) -> Evidence:
    ways = len(subject.manifest.activity.parameters["discrimination"]["by"])
    several = subject.sibling("generation_score", "question_id", "candidate_ids").filter(
        pl.col("candidate_ids").list.len() > 1
    )
    found = subject.columns("question_id").group_by(id="question_id").agg(picks=pl.len())
    return Evidence(
        counted(several.select(id="question_id"), found, "picks"),
        (Expect("ExpectColumnValuesToBeInSet", column="picks", value_set=[ways]),),
        found="have more or fewer picks, or nothing to pick from",
        allowed=f"each question is picked for once in each of {ways} ways",
        unit="questions",
    )


def _orders_are_whole(subject: Subject) -> Evidence:
    """Each order shows every candidate once, and the pick is one of them."""
    rows = subject.columns("id", "candidate_ids", "orders", "picked_id")
    whole = [
        all(sorted(order) == list(range(len(row["candidate_ids"]))) for order in row["orders"])
        and row["picked_id"] in (None, *row["candidate_ids"])
        for row in rows.iter_rows(named=True)
    ]
    return Evidence(
        rows.select("id", "picked_id").with_columns(pl.Series("whole", whole, dtype=pl.Boolean)),
        (Expect("ExpectColumnValuesToBeInSet", column="whole", value_set=[True]),),
        found="show a candidate twice or not at all, or pick what was not shown",
        allowed="each order holds every candidate once",
        unit="choices",
    )


def _probabilities_sum(subject: Subject) -> Evidence:
    """A choice that failed lacks the probabilities of the orders that were not answered, so it is left out."""
    rows = subject.measured("id", "by", "probabilities").filter(by="probability")
    totals = (
        rows.select("id", total=pl.col("probabilities"))
        .explode("total")
        .select("id", total=pl.col("total").list.sum())
    )
    return Evidence(
        totals,
        (Expect("ExpectColumnValuesToBeBetween", column="total", min_value=1 - 1e-4, max_value=1 + 1e-4),),
        found="have options whose probabilities do not sum to 1",
        allowed="they sum to 1 each time",
        unit="questions to the model",
    )


def _choices_read(subject: Subject) -> Evidence:
    rows = subject.columns("id", "task", "by", "unread_share")
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToBeBetween", column="unread_share", max_value=MOST_UNREAD),),
        found=f"have no choice that could be read in more than {MOST_UNREAD:.0%} of the times",
        allowed="a gap that rests on so few choices says little",
        unit="gaps",
    )


def _interval_holds_gap(subject: Subject) -> Evidence:
    rows = subject.columns("id", "generation", "discrimination", "gap", "gap_low", "gap_high")
    off = (pl.col("discrimination") - pl.col("generation") - pl.col("gap")).abs()
    return Evidence(
        rows.with_columns(
            off=off, below=pl.col("gap") - pl.col("gap_low"), above=pl.col("gap_high") - pl.col("gap")
        ),
        (
            Expect("ExpectColumnValuesToBeBetween", column="off", max_value=ROUNDING),
            Expect("ExpectColumnValuesToBeBetween", column="below", min_value=-ROUNDING),
            Expect("ExpectColumnValuesToBeBetween", column="above", min_value=-ROUNDING),
        ),
        found="have a gap that is not the difference of both scores, or lies outside its interval",
        allowed="the interval holds the difference",
        unit="gaps",
    )


def _no_worse_than_chance(subject: Subject) -> Evidence:
    rows = subject.columns("id", "task", "by", "gap", "gap_high", "statement")
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToBeBetween", column="gap_high", min_value=0),),
        found="say that the model picks worse than chance",
        allowed="stages in which this model judges itself stop or warn, as their experiment says",
        unit="gaps",
    )


SK_QUESTION_CHECKS = (
    QualityCheck(
        "no_empty_text",
        True,
        "Every question has text.",
        "Fix the lines of the task's file that the table names",
        partial(has_text, columns=("question",), unit="questions"),
    ),
)


CANDIDATE_CHECKS = (
    *COMPLETION_CHECKS,
    QualityCheck(
        "candidates_a_question",
        True,
        "Each question has as many candidates as were to be drawn.",
        "Materialise candidates again after questions",
        _candidates_drawn,
    ),
)


GENERATION_SCORE_CHECKS = (
    QualityCheck("one_a_question", True, "Each question has one score.", AGAIN, _one_score_a_question),
    QualityCheck("score_is_share", True, "A score is the share of right candidates.", AGAIN, _score_is_share),
)


DISCRIMINATION_SCORE_CHECKS = (
    QualityCheck("one_a_way", True, "Each question has one pick in each way.", AGAIN, _picks_made),
    QualityCheck("orders_whole", True, "Each order shows every candidate once.", AGAIN, _orders_are_whole),
    QualityCheck(
        "probabilities",
        True,
        "The probabilities of the options sum to 1.",
        "The engine gives wrong probabilities: try another device or number format",
        _probabilities_sum,
    ),
)


DISCRIMINATION_GAP_CHECKS = (
    QualityCheck(
        "interval_holds_gap", True, "Each gap lies within its interval.", AGAIN, _interval_holds_gap
    ),
    QualityCheck(
        "choices_read",
        False,
        f"At least {1 - MOST_UNREAD:.0%} of the choices could be read.",
        "Read some of the texts; a model that does not know the form can still be asked by probability",
        _choices_read,
    ),
    QualityCheck(
        "no_worse_than_chance",
        False,
        "The model does not pick worse than chance.",
        "Do not let this model judge itself",
        _no_worse_than_chance,
    ),
)
