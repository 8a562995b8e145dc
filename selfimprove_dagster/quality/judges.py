"""Define checks of the judge of held-out answers, where an experiment has one."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.evaluation.judge import CONTROL, ExamJudgeSection
from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.experiment.base import JUDGED
from selfimprove_dagster.quality.results import Evidence, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject

_ROUNDING = 1e-9

_NONE = NotApplicable("no judge was asked for (evaluation.judge)")


def _section(subject: Subject) -> ExamJudgeSection | None:
    found = getattr(getattr(subject.experiment, "evaluation", None), "judge", None)
    return found if isinstance(found, ExamJudgeSection) else None


def _control(subject: Subject) -> Evidence | NotApplicable:
    section = _section(subject)
    if section is None:
        return _NONE
    known = subject.columns("mode", "correct").filter(mode=CONTROL)["correct"]
    found = Accuracy(int(known.sum()), len(known))
    if not found.total:
        return NotApplicable(
            "the judge was shown no answer of another question (evaluation.judge.control_questions)"
        )
    statement = f"the judge told {found} of {found.total:,} answers from the answer to another question"
    return _reaches(section, "least_control", found, statement)


def _orders(subject: Subject) -> Evidence | NotApplicable:
    section = _section(subject)
    if section is None:
        return _NONE
    shown = subject.columns("role", "mode", "as_first", "as_second").filter(
        (pl.col("mode").str.starts_with(JUDGED) & (pl.col("role") == "challenger"))
        | (pl.col("mode") == CONTROL)
    )
    # Rows of a rating, and pairs that the judge was not shown, have neither.
    sides = (
        shown.drop_nulls()
        .select(pl.col("as_first", "as_second") - 0.5)
        .filter((pl.col("as_first").abs() > _ROUNDING) | (pl.col("as_second").abs() > _ROUNDING))
    )
    alike = (
        (sides["as_first"].sign() == sides["as_second"].sign())
        if sides.height
        else pl.Series([], dtype=pl.Boolean)
    )
    found = Accuracy(int(alike.sum()), len(alike))
    if not found.total:
        return NotApplicable("no pair of answers was compared in both orders")
    statement = (
        f"{found} of {found.total:,} pairs, those of the control among them, are judged alike in both orders"
    )
    return _reaches(section, "least_order_agreement", found, statement)


def _reaches(section: ExamJudgeSection, bound: str, found: Accuracy, statement: str) -> Evidence:
    """Return the evidence that the interval of a share reaches the bound that a field of the section sets."""
    least: float = getattr(section, bound)
    low, high = found.interval
    return Evidence.of_number(
        "highest",
        high,
        least=least - _ROUNDING,
        statement=statement,
        allowed=f"the interval must reach {least:.0%} (evaluation.judge.{bound})",
        evaluated=found.total,
        observed={"share": found.value, "low": low, "high": high},
        blocking=section.on_failure == "stop",
    )


_REMEDY = (
    "Take another judge (evaluation.judge.model), let it reason, or ask another question; "
    "`evaluation.judge.on_failure: warn` goes on all the same"
)

EXAM_JUDGE_CHECKS = (
    QualityCheck(
        "judge_control",
        True,
        "The judge, if there is one, tells an answer from the answer to another question.",
        _REMEDY,
        _control,
    ),
    QualityCheck(
        "judge_orders",
        True,
        "The judge, if there is one, prefers the same answer in both orders.",
        _REMEDY,
        _orders,
    ),
)
"""Checks of an evaluation whose answers may be judged by a model."""
