"""Checks on the tasks that a model writes: pool, candidates, scores, instances, dataset."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.methods.lmsi.checks import FINISHED, LOGPROBS_MATCH_TOKENS, PERPLEXITY_RANGE
from selfimprove_dagster.methods.lmsi.checks import NO_EMPTY_TEXT as NO_EMPTY_COMPLETION
from selfimprove_dagster.methods.self_instruct.settings import SelfInstructExperiment
from selfimprove_dagster.quality.dataset import (
    LENGTH_DRIFT_CHECK,
    LITTLE_OVERLAP,
    NO_EMPTY_TEXT,
    NOT_EMPTY,
    VOCABULARY_DRIFT_CHECK,
)
from selfimprove_dagster.quality.questions import NO_OVERLAP
from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted, share
from selfimprove_dagster.table import Row
from selfimprove_dagster.text import normalise_question

ROUNDING = 1e-12


_LEAST_USABLE = 0.5


_AGAIN = "Materialise the stage again"


def _pool_has_people(subject: Subject) -> Evidence:
    rows = subject.columns("id", "origin", "instruction")
    human = int((rows["origin"] == "human").sum())
    return Evidence.of_number(
        "tasks_by_people",
        human,
        least=1,
        statement=f"{human:,} of {rows.height:,} tasks are by people",
        allowed="at least 1 must be, since every prompt shows some",
        evaluated=rows.height,
    )


def _pool_holds_nothing_held_out(subject: Subject) -> Evidence:
    held_out = set(subject.evaluation_questions["key"])
    rows = subject.columns("id", "instruction", "instances")
    found = [
        next((text for text in _questions(row) if normalise_question(text) in held_out), "none")
        for row in rows.iter_rows(named=True)
    ]
    return Evidence(
        rows.select("id", "instruction").with_columns(pl.Series("held_out", found, dtype=pl.String)),
        (Expect("ExpectColumnValuesToBeInSet", column="held_out", value_set=["none"]),),
        found="have an instance that the evaluation file holds out",
        allowed=f"none of its {len(held_out):,} tasks may be shown to the model",
        unit="tasks",
    )


def _questions(row: Row) -> list[str]:
    return [f"{row['instruction']}\n{one['input']}".strip() for one in row["instances"] or ()]


def _usable(subject: Subject) -> Evidence:
    rows = subject.columns("id", "problem").with_columns(usable=pl.col("problem").is_null())
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToBeInSet", column="usable", value_set=[True], mostly=_LEAST_USABLE),),
        found="could not be read or used",
        allowed=f"at most {1 - _LEAST_USABLE:.0%} should be so",
        unit="rows",
        observed={"usable_share": share(rows["usable"])},
    )


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


_SWITCHED_OFF = NotApplicable("filter.switched_off keeps whatever can be read, copies too")


def _filter_is_off(subject: Subject) -> bool:
    return isinstance(subject.experiment, SelfInstructExperiment) and subject.experiment.filter.switched_off


def _new_tasks(subject: Subject) -> Evidence | NotApplicable:
    if _filter_is_off(subject):
        return _SWITCHED_OFF
    columns = [name for name in ("instruction", "input") if name in subject.schema.content]
    return Evidence(
        subject.columns("id", *columns).with_columns(pl.lit(subject.schema.name).alias("table")),
        (Expect("ExpectCompoundColumnsToBeUnique", column_list=[*columns, "table"]),),
        found="say what another accepted task says",
        allowed="each must be accepted once",
        unit="tasks",
    )


def _yield_share(subject: Subject) -> Evidence:
    accepted = subject.columns("id").height
    candidates = subject.sibling("candidate_tasks", "id").height
    least = subject.experiment.budget.minimum_yield
    return Evidence.of_number(
        "yield",
        accepted / candidates if candidates else None,
        least=least,
        most=1,
        statement=f"{accepted:,} of {candidates:,} candidates were accepted",
        allowed=f"at least {least:.2%} (budget.minimum_yield) should be",
        evaluated=candidates,
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


def _no_duplicates(subject: Subject) -> Evidence | NotApplicable:
    if _filter_is_off(subject):
        return _SWITCHED_OFF
    return Evidence(
        subject.columns("id", "question", "completion"),
        (Expect("ExpectCompoundColumnsToBeUnique", column_list=["question", "completion"]),),
        found="have instruction, input and output of another",
        allowed="each must occur once",
        unit="examples",
    )


def _dropped_is_not_used(subject: Subject) -> Evidence:
    dropped = subject.sibling("decisions", "candidate_id", "kept").filter(~pl.col("kept"))
    edges = subject.columns("id", "parents").explode("parents", empty_as_null=False)
    used = edges.select("id", parent=pl.col("parents").struct.field("id"))
    wrong = used.join(dropped, left_on="parent", right_on="candidate_id", how="semi")
    rows = subject.columns("id").join(
        wrong.group_by("id").agg(dropped_parents=pl.len()), on="id", how="left", maintain_order="left"
    )
    return Evidence(
        rows.with_columns(pl.col("dropped_parents").fill_null(0)),
        (Expect("ExpectColumnValuesToBeBetween", column="dropped_parents", max_value=0),),
        found="were made from an instance that a rule dropped",
        allowed="only kept ones may be used",
        unit="examples",
    )


POOL_CHECKS = (
    QualityCheck(
        "tasks_by_people",
        True,
        "The pool holds tasks by people.",
        "Give seed tasks in seeds.file, or lift bans",
        _pool_has_people,
    ),
    QualityCheck(
        "no_overlap_with_evaluation",
        True,
        "No instance of a seed task is held out for evaluation.",
        "Take these tasks out of the seed file or out of the evaluation file, then start a new experiment",
        _pool_holds_nothing_held_out,
    ),
)


COMPLETION_CHECKS = (NO_EMPTY_COMPLETION, LOGPROBS_MATCH_TOKENS, FINISHED)


PARSED_CHECKS = (
    QualityCheck(
        "usable",
        False,
        "At least half of what the model wrote could be read.",
        "Look at the rows and at the prompt; a small model may need fewer demonstrations or shorter lists",
        _usable,
    ),
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
        "Neighbours stand in order, and each verdict follows from the nearest.",
        _AGAIN,
        _similarity_is_consistent,
    ),
)


_NEW = QualityCheck("new_tasks", True, "No task is accepted twice.", _AGAIN, _new_tasks)


_YIELD = QualityCheck(
    "yield",
    False,
    "The share of candidates that were accepted is at least the experiment's least yield.",
    "See task_decisions for what dropped the others; the pool may be full",
    _yield_share,
)


ELICITED_CHECKS = (_NEW, _YIELD)


ACCEPTED_CHECKS = (
    *ELICITED_CHECKS,
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


TASK_DATASET_CHECKS = (
    NOT_EMPTY,
    QualityCheck("no_duplicates", True, "No two examples say the same.", _AGAIN, _no_duplicates),
    NO_EMPTY_TEXT,
    NO_OVERLAP,
    LITTLE_OVERLAP,
    LENGTH_DRIFT_CHECK,
    VOCABULARY_DRIFT_CHECK,
    QualityCheck(
        "decisions_kept", True, "No example was made from what a rule dropped.", _AGAIN, _dropped_is_not_used
    ),
)
