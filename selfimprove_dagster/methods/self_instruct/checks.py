"""Checks of Self-Instruct's tables: scores, accepted tasks, classes, dataset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import polars as pl

from selfimprove_dagster.families.tasks.checks import ACCEPTED_CHECKS, TASK_DATASET_CHECKS
from selfimprove_dagster.methods.self_instruct.settings import SelfInstructExperiment
from selfimprove_dagster.quality.completions import PERPLEXITY_RANGE
from selfimprove_dagster.quality.results import Evidence, Expect, Gather, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted, share

ROUNDING = 1e-12


_AGAIN = "Materialise the stage again"


def _one_score_a_candidate(subject: Subject) -> Evidence:
    usable = subject.sibling("candidate_tasks", "id", "problem").filter(pl.col("problem").is_null())
    scored = subject.columns("candidate_id").group_by(id="candidate_id").agg(scores=pl.len())
    return Evidence(
        counted(usable.select("id"), scored, "scores"),
        (Expect("ExpectColumnValuesToBeBetween", column="scores", min_value=1, max_value=1),),
        found="have no score, several, or are not among the usable candidates",
        allowed="each must have one",
        unit="candidates",
    )


def _similarity_is_consistent(subject: Subject) -> Evidence:
    threshold = subject.manifest.activity.parameters["maximum_rouge_l"]
    rows = subject.columns("id", "kept", "pool", "neighbours")
    scores = pl.col("neighbours").list.eval(pl.element().struct.field("rouge_l"))
    judged = rows.select(
        "id",
        "pool",
        "kept",
        highest=scores.list.max().fill_null(0.0),
        lowest=scores.list.min().fill_null(0.0),
        in_order=scores.list.eval(pl.element().diff().fill_null(0.0)).list.max().fill_null(0.0) <= ROUNDING,
    ).with_columns(follows=(pl.col("highest") <= threshold) == pl.col("kept"))
    return Evidence(
        judged,
        (
            Expect("ExpectColumnValuesToBeBetween", column="highest", min_value=0, max_value=1),
            Expect("ExpectColumnValuesToBeBetween", column="lowest", min_value=0, max_value=1),
            Expect("ExpectColumnValuesToBeInSet", column="in_order", value_set=[True]),
            Expect("ExpectColumnValuesToBeInSet", column="follows", value_set=[True]),
        ),
        found="have scores outside 0 to 1, out of order, or a verdict that does not follow from them",
        allowed=f"a task is kept where no neighbour is nearer than {threshold:g}",
        unit="candidates",
    )


def _below_threshold(subject: Subject) -> Evidence:
    rows = subject.columns("id", "instruction", "rouge_l")
    section = subject.manifest.activity.parameters["filter"]
    threshold = 1.0 if section["switched_off"] else section["maximum_rouge_l"]
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToBeBetween", column="rouge_l", min_value=0, max_value=threshold),),
        found="are nearer to a task of the pool than allowed",
        allowed=f"ROUGE-L must be at most {threshold:g}",
        unit="tasks",
    )


def _unless_off(subject: Subject, gather: Gather) -> Evidence | NotApplicable:
    assert isinstance(subject.experiment, SelfInstructExperiment)
    if subject.experiment.filter.switched_off:
        return NotApplicable("filter.switched_off keeps whatever can be read, copies too")
    return gather(subject)


def _filtering(checks: Iterable[QualityCheck], *names: str) -> tuple[QualityCheck, ...]:
    """The checks, of which those of these names pass where the filter is switched off."""
    return tuple(
        replace(check, gather=partial(_unless_off, gather=check.gather)) if check.name in names else check
        for check in checks
    )


def _one_class_a_task(subject: Subject) -> Evidence:
    found = subject.columns("task_id").group_by(id="task_id").agg(classes=pl.len())
    return Evidence(
        counted(subject.sibling("accepted_tasks", "id"), found, "classes"),
        (Expect("ExpectColumnValuesToBeBetween", column="classes", min_value=1, max_value=1),),
        found="have no class, several, or are not among the accepted tasks",
        allowed="each must have one",
        unit="tasks",
    )


def _both_classes(subject: Subject) -> Evidence:
    rows = subject.columns("is_classification")
    found = share(rows["is_classification"])
    return Evidence.of_number(
        "classification_share",
        found,
        least=0.01,
        most=0.99,
        statement=f"{found:.1%} of the tasks are classification",
        allowed="a model that says the same of every task has not understood the question",
        evaluated=rows.height,
    )


INSTRUCTION_SCORE_CHECKS = (
    QualityCheck(
        "one_score_a_candidate", True, "Each usable candidate has one score.", _AGAIN, _one_score_a_candidate
    ),
    PERPLEXITY_RANGE,
)


SIMILARITY_CHECKS = (
    QualityCheck(
        "consistent",
        True,
        "Neighbours are in order, and each verdict follows from the nearest.",
        _AGAIN,
        _similarity_is_consistent,
    ),
)


ACCEPTED_TASKS_CHECKS = (
    *_filtering(ACCEPTED_CHECKS, "new_tasks"),
    QualityCheck(
        "below_threshold", True, "No accepted task is near to another of the pool.", _AGAIN, _below_threshold
    ),
)


CLASSIFIED_CHECKS = (
    QualityCheck("one_class_a_task", True, "Each accepted task has one class.", _AGAIN, _one_class_a_task),
    QualityCheck(
        "both_classes",
        False,
        "Some tasks are classification and some are not.",
        "Look at the worked examples of the prompt: classification.shots",
        _both_classes,
    ),
)


DATASET_CHECKS = _filtering(TASK_DATASET_CHECKS, "no_duplicates")
