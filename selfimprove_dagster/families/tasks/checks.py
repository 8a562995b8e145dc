"""Checks on the tasks that a model writes: pool, candidates, dataset."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.filters.contamination import text_keys
from selfimprove_dagster.quality.dataset import (
    LENGTH_DRIFT_CHECK,
    LITTLE_OVERLAP,
    NO_EMPTY_TEXT,
    NOT_EMPTY,
    VOCABULARY_DRIFT_CHECK,
)
from selfimprove_dagster.quality.questions import NO_OVERLAP
from selfimprove_dagster.quality.results import Evidence, Expect, QualityCheck
from selfimprove_dagster.quality.subject import Subject, share
from selfimprove_dagster.table import Row

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
    held_out = set(text_keys(subject.evaluation_questions["question"]))
    rows = subject.columns("id", "instruction", "instances")
    asked = [(at, text) for at, row in enumerate(rows.iter_rows(named=True)) for text in _questions(row)]
    found = ["none"] * rows.height
    for (at, text), key in zip(asked, text_keys(text for _, text in asked), strict=True):
        if key in held_out and found[at] == "none":
            found[at] = text
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


def _new_tasks(subject: Subject) -> Evidence:
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


def _no_duplicates(subject: Subject) -> Evidence:
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


PARSED_CHECKS = (
    QualityCheck(
        "usable",
        False,
        "At least half of what the model wrote could be read.",
        "Look at the rows and at the prompt; a small model may need fewer demonstrations or shorter lists",
        _usable,
    ),
)


NEW_TASKS = QualityCheck("new_tasks", True, "No task is accepted twice.", _AGAIN, _new_tasks)


YIELD = QualityCheck(
    "yield",
    False,
    "The share of candidates that were accepted is at least the experiment's least yield.",
    "See task_decisions for what dropped the others; the pool may be full",
    _yield_share,
)


ACCEPTED_CHECKS = (NEW_TASKS, YIELD)


TASK_DATASET_CHECKS = (
    NOT_EMPTY,
    QualityCheck("no_duplicates", True, "No two examples have equal text.", _AGAIN, _no_duplicates),
    NO_EMPTY_TEXT,
    NO_OVERLAP,
    LITTLE_OVERLAP,
    LENGTH_DRIFT_CHECK,
    VOCABULARY_DRIFT_CHECK,
    QualityCheck(
        "decisions_kept", True, "No example was made from what a rule dropped.", _AGAIN, _dropped_is_not_used
    ),
)
