"""Checks on dialogues: prompts, responses, critiques, revisions, and what is learnt of them."""

from __future__ import annotations

import polars as pl

from selfimprove_dagster.families.dialogues.checks import AGAIN, PRINCIPLES_KNOWN, ROUNDING, section
from selfimprove_dagster.methods.constitutional.constitutional import HELPFUL, REVISION
from selfimprove_dagster.quality.completions import COMPLETION_CHECKS
from selfimprove_dagster.quality.dataset import (
    LENGTH_DRIFT_CHECK,
    NO_EMPTY_TEXT,
    NOT_EMPTY,
    VOCABULARY_DRIFT_CHECK,
)
from selfimprove_dagster.quality.questions import NO_OVERLAP
from selfimprove_dagster.quality.results import Evidence, Expect, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted


def _one_critique_a_response(subject: Subject) -> Evidence:
    rounds = section(subject, "revisions").rounds
    made = (
        subject.columns("prompt_id", "round", "revises_id")
        .group_by(id="prompt_id", maintain_order=True)
        .agg(pl.col("round").sort(), responses=pl.col("revises_id").n_unique())
    )
    revised = (
        subject.sibling("revisions", "prompt_id", "text")
        .filter(_SAYS_SOMETHING)
        .group_by(id="prompt_id")
        .agg(said=pl.len())
    )
    last = pl.min_horizontal(pl.col("said").fill_null(0) + 1, rounds)
    every = pl.int_ranges(1, last + 1, dtype=pl.Int32)
    complete = (pl.col("round") == every) & (pl.col("responses") == last)
    return Evidence(
        made.join(revised, on="id", how="left", maintain_order="left").select("id", complete=complete),
        (Expect("ExpectColumnValuesToBeInSet", column="complete", value_set=[True]),),
        found="lack a critique in a round, or have two, or two of one response",
        allowed=f"there is one of each response in each of {rounds} rounds, up to a text that says nothing",
        unit="prompts",
    )


_SAYS_SOMETHING = pl.col("text").str.contains(r"\S")


def _one_revision_a_critique(subject: Subject) -> Evidence:
    told = ["prompt_id", "revises_id", "round", "principle"]
    critiques = subject.sibling("critiques", "id", "text", *told).filter(_SAYS_SOMETHING)
    revisions = subject.columns("critique_id", *told).rename({"critique_id": "id"})
    same = revisions.join(critiques, on=["id", *told], how="semi", nulls_equal=True)
    found = same.group_by("id").agg(revisions=pl.len())
    astray = revisions.join(same, on=["id", *told], how="anti", nulls_equal=True).select(
        "id", revisions=pl.lit(-1, pl.Int64)
    )
    return Evidence(
        pl.concat([counted(critiques.select("id", *told), found, "revisions"), astray], how="diagonal"),
        (Expect("ExpectColumnValuesToBeInSet", column="revisions", value_set=[1]),),
        found="have no revision or several, or one of another response, round or principle",
        allowed="each critique that says something is followed by one revision of the same response",
        unit="critiques",
    )


def _round_is_learnt(subject: Subject) -> Evidence:
    chosen = section(subject, "filter").round
    chosen = section(subject, "revisions").rounds if chosen is None else chosen
    right = pl.when(pl.col("format") == REVISION).then(chosen).when(pl.col("format") == HELPFUL).then(0)
    return Evidence(
        subject.columns("id", "format", "round").with_columns(learnt_round=right.cast(pl.Int32)),
        (Expect("ExpectColumnPairValuesToBeEqual", column_A="round", column_B="learnt_round"),),
        found="are of another round",
        allowed=f"revisions are of round {chosen} (filter.round), helpful responses have none",
        unit="examples",
    )


def _helpful_share(subject: Subject) -> Evidence:
    formats = subject.columns("format")["format"]
    most = section(subject, "filter").helpful_share
    found = float((formats == HELPFUL).sum()) / len(formats) if len(formats) else 0.0
    return Evidence.of_number(
        "helpful_share",
        found,
        most=most + ROUNDING,
        statement=f"{found:.1%} of the examples are helpful responses",
        allowed=f"at most {most:.1%} may be (filter.helpful_share)",
        evaluated=len(formats),
    )


def _no_copies(subject: Subject) -> Evidence:
    return Evidence(
        subject.columns("id", "prompt", "completion"),
        (Expect("ExpectCompoundColumnsToBeUnique", column_list=["prompt", "completion"]),),
        found="have prompt and completion of another",
        allowed="each must occur once",
        unit="examples",
    )


def _revisions_decided(subject: Subject) -> Evidence:
    """Every revision was decided on; what was dropped, helpful responses too, is no example's parent."""
    decided = (
        subject.sibling("decisions", "candidate_id", "kept")
        .group_by(id="candidate_id")
        .agg(decisions=pl.len().cast(pl.Int64), dropped=(~pl.col("kept")).any())
    )
    parents = subject.columns("parents").select(pl.col("parents").explode(empty_as_null=False)).to_series()
    used = pl.DataFrame({"id": parents.struct.field("id").unique()}).with_columns(used=pl.lit(True))
    rows = subject.sibling("revisions", "id").join(decided, on="id", how="full", coalesce=True)
    return Evidence(
        rows.join(used, on="id", how="left").select(
            "id",
            pl.col("decisions").fill_null(0),
            dropped_but_used=pl.col("dropped").fill_null(False) & pl.col("used").fill_null(False),
        ),
        (
            Expect("ExpectColumnValuesToBeBetween", column="decisions", min_value=1),
            Expect("ExpectColumnValuesToBeInSet", column="dropped_but_used", value_set=[False]),
        ),
        found="have no decision, or were dropped but are in the dataset",
        allowed="each must have been decided on, and only kept ones may be used",
        unit="revisions and helpful responses",
    )


CRITIQUE_CHECKS = (
    *COMPLETION_CHECKS,
    QualityCheck(
        "one_a_response",
        True,
        "Each response that says something has one critique per round.",
        AGAIN,
        _one_critique_a_response,
    ),
    PRINCIPLES_KNOWN,
)


REVISION_CHECKS = (
    *COMPLETION_CHECKS,
    QualityCheck(
        "one_a_critique",
        True,
        "Each critique that says something has one revision, of its response, round and principle.",
        AGAIN,
        _one_revision_a_critique,
    ),
    PRINCIPLES_KNOWN,
)


REVISION_DATASET_CHECKS = (
    NOT_EMPTY,
    NO_EMPTY_TEXT,
    QualityCheck(
        "no_duplicates", True, "No two examples have the same prompt and completion.", AGAIN, _no_copies
    ),
    NO_OVERLAP,
    QualityCheck(
        "round_is_learnt",
        True,
        "Revisions are of the round that the experiment learns from.",
        "The experiment file was changed since: materialise filtered_dataset again",
        _round_is_learnt,
    ),
    QualityCheck(
        "helpful_share",
        True,
        "Helpful responses are at most the experiment's share.",
        "The experiment file was changed since: materialise filtered_dataset again",
        _helpful_share,
    ),
    LENGTH_DRIFT_CHECK,
    VOCABULARY_DRIFT_CHECK,
    QualityCheck(
        "decisions_complete",
        True,
        "Every revision has a decision, and nothing dropped is in the dataset.",
        AGAIN,
        _revisions_decided,
    ),
)
