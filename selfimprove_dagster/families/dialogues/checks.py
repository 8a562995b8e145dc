"""Checks on dialogues: prompts, responses, critiques, revisions, and what is learnt of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import polars as pl

from selfimprove_dagster.quality.completions import COMPLETION_CHECKS
from selfimprove_dagster.quality.outcomes import (
    CHAMPION_AND_CHALLENGER,
    NOT_TRAINED_ON,
    all_questions_answered,
)
from selfimprove_dagster.quality.questions import no_overlap_with_evaluation
from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted

AGAIN = "Materialise the stage again"


ROUNDING = 1e-9


def section(subject: Subject, name: str) -> Any:
    """A section of the experiment by its name, for checks that several methods share."""
    return getattr(subject.experiment, name)


def has_text(subject: Subject, columns: Sequence[str], unit: str) -> Evidence:
    """None of the columns is empty."""
    return Evidence(
        subject.columns("id", *columns),
        tuple(Expect("ExpectColumnValuesToMatchRegex", column=column, regex=r"\S") for column in columns),
        found=f"have an empty {' or '.join(columns)}",
        allowed="there must be text",
        unit=unit,
    )


def counted_by_prompt(subject: Subject, each: int) -> Evidence:
    """Each prompt of the seed pool has so many rows."""
    found = subject.columns("prompt_id").group_by(id="prompt_id").agg(rows=pl.len())
    return Evidence(
        counted(subject.sibling("seed_pool", "id", "prompt"), found, "rows"),
        (Expect("ExpectColumnValuesToBeInSet", column="rows", value_set=[each]),),
        found="have more or fewer responses, or are not in the seed pool",
        allowed=f"each prompt has {each}",
        unit="prompts",
    )


def principles_known(subject: Subject) -> Evidence | NotApplicable:
    """Every principle is one of the constitution that the activity names."""
    constitution = section(subject, "constitution").load()
    if subject.manifest.activity.parameters.get("constitution", {}).get("hash") != constitution.hash:
        return NotApplicable("the constitution was changed since: its principles are not those of then")
    names = [principle.name for principle in constitution.principles]
    rows = subject.columns("id", "principle")
    return Evidence(
        rows,
        (Expect("ExpectColumnValuesToBeInSet", column="principle", value_set=names),),
        found=f"follow a principle that {constitution.name} does not have",
        allowed=f"it must be one of its {len(names)}",
        observed={"principles_drawn": rows["principle"].n_unique()},
    )


NO_PROMPT_HELD_OUT = QualityCheck(
    "no_overlap_with_evaluation",
    True,
    "No prompt is in the evaluation file; case, punctuation and Unicode forms make no difference.",
    "Remove these prompts from the seed file or from the evaluation file, or set `decontamination: {}`, which rejects "
    "such seeds; then start a new experiment",
    partial(no_overlap_with_evaluation, column="prompt"),
)


PROMPT_POOL_CHECKS = (
    QualityCheck(
        "no_empty_text",
        True,
        "Every prompt has text.",
        "Fix the lines of the seed file that the table names",
        partial(has_text, columns=("prompt",), unit="prompts"),
    ),
    NO_PROMPT_HELD_OUT,
)


FIRST_RESPONSE_CHECKS = (
    *COMPLETION_CHECKS,
    QualityCheck(
        "one_a_prompt",
        True,
        "Each prompt has one response.",
        "Materialise raw_generations again after its seed pool",
        partial(counted_by_prompt, each=1),
    ),
)


PRINCIPLES_KNOWN = QualityCheck(
    "principles_known",
    True,
    "Every principle is one of the constitution's.",
    AGAIN,
    principles_known,
)


DIALOGUE_EVALUATION_CHECKS = (
    QualityCheck(
        "all_questions_answered",
        True,
        "Champion and challenger have answered every prompt of the evaluation file once.",
        "Materialise evaluation again; the file may have been changed since",
        partial(all_questions_answered, alike=False),
    ),
    CHAMPION_AND_CHALLENGER,
    NOT_TRAINED_ON,
)
