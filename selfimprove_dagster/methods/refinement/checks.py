"""Checks on refined answers: that each task came to its outcome, and whether refining pays."""

from __future__ import annotations

from functools import partial

import polars as pl

from selfimprove_dagster.families.dialogues.checks import AGAIN, section
from selfimprove_dagster.families.refining.ways import ANSWER, FAILED, OUTCOME, WAYS
from selfimprove_dagster.methods.refinement.exam import after_rounds, curves
from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted, share

FAILED_SHARE = 0.1
"""Of tasks, more than which something is wrong with prompts or limits."""


LEVEL = 0.05
"""Of the one-sided test that a way makes answers worse."""


def _one_outcome(subject: Subject) -> Evidence:
    ways = section(subject, "refining").ways
    outcomes = subject.columns("prompt_id", "way", "kind").filter(pl.col("way").is_in(ways), kind=OUTCOME)
    found = outcomes.group_by(id="prompt_id").agg(outcomes=pl.len())
    return Evidence(
        counted(subject.sibling("seed_pool", "id", "prompt"), found, "outcomes"),
        (Expect("ExpectColumnValuesToBeInSet", column="outcomes", value_set=[len(ways)]),),
        found="lack the outcome of a way, or have one too many, or are not in the seed pool",
        allowed=f"each prompt has one outcome by {', '.join(ways)}",
        unit="prompts",
    )


def _rounds_follow(subject: Subject) -> Evidence:
    most = section(subject, "refining").rounds
    answers = subject.columns("prompt_id", "way", "kind", "round").filter(kind=ANSWER)
    made = answers.group_by("prompt_id", "way", maintain_order=True).agg(
        last=pl.col("round").max(), answers=pl.len(), rounds=pl.col("round").n_unique()
    )
    whole = (pl.col("last") == pl.col("answers")) & (pl.col("rounds") == pl.col("answers"))
    return Evidence(
        made.select(
            pl.format("{} {}", "prompt_id", "way").alias("id"),
            "last",
            follow=whole & (pl.col("last") <= most),
        ),
        (Expect("ExpectColumnValuesToBeInSet", column="follow", value_set=[True]),),
        found="leave a round out, have two answers in one, or too many rounds",
        allowed=f"rounds follow each other from 1, at most to {most} (refining.rounds)",
        unit="refined answers",
    )


def _ends_with_last_good(subject: Subject) -> Evidence:
    rows = subject.columns("id", "prompt_id", "way", "kind", "round", "text", "error")
    good = rows.filter(pl.col("error").is_null(), kind=ANSWER).sort("round")
    last = good.group_by("prompt_id", "way").agg(last=pl.col("text").last())
    first = subject.sibling("raw_generations", "prompt_id", "text").rename({"text": "first"})
    outcomes = rows.filter(kind=OUTCOME).join(
        last, on=["prompt_id", "way"], how="left", maintain_order="left"
    )
    ends = outcomes.join(first, on="prompt_id", how="left", maintain_order="left").select(
        "id",
        outcome=pl.col("text").fill_null("").str.strip_chars(),
        last_good=pl.coalesce("last", "first").fill_null("").str.strip_chars(),
    )
    return Evidence(
        ends,
        (Expect("ExpectColumnPairValuesToBeEqual", column_A="outcome", column_B="last_good"),),
        found="do not end with their last good answer",
        allowed="a task ends with its last good answer, whatever failed after it",
        unit="outcomes",
    )


def _few_fail(subject: Subject) -> Evidence:
    outcomes = subject.columns("id", "kind", "way", "stopped", "error").filter(kind=OUTCOME)
    failed = share(outcomes["stopped"] == FAILED)
    return Evidence(
        outcomes.select("id", "way", "stopped", pl.col("error").fill_null("none")),
        (
            Expect(
                "ExpectColumnValuesToNotBeInSet",
                column="stopped",
                value_set=[FAILED],
                mostly=1 - FAILED_SHARE,
            ),
        ),
        found="failed",
        allowed=f"at most {FAILED_SHARE:.0%} should",
        unit="refined answers",
        observed={"failed_share": failed},
    )


def _every_mode_answered(subject: Subject) -> Evidence:
    refining = section(subject, "refining")
    modes = 1 + len(refining.ways) * refining.rounds
    place = ["source_file", "source_line"]
    counts = (
        subject.columns(*place, "mode")
        .group_by(place)
        .agg(answers=pl.len().cast(pl.Int64), modes=pl.col("mode").n_unique().cast(pl.Int64))
    )
    asked = subject.evaluation_questions.select("id", *place, "question")
    frame = asked.join(counts, on=place, how="full", coalesce=True).with_columns(
        pl.col("id").fill_null(pl.format("{}:{} (not in the file)", *place)),
        pl.col("question").fill_null("none"),
        pl.col("answers", "modes").fill_null(0),
    )
    return Evidence(
        frame.sort(place).drop(place),
        (
            Expect("ExpectColumnValuesToBeInSet", column="answers", value_set=[modes]),
            Expect("ExpectColumnPairValuesToBeEqual", column_A="answers", column_B="modes"),
            Expect("ExpectColumnValuesToNotBeInSet", column="question", value_set=["none"]),
        ),
        found="lack an answer, have one twice, or are not in the evaluation file",
        allowed=f"each has the first answer and those of {refining.rounds} rounds in each way: {modes}",
        unit="evaluation questions",
        observed={"questions": asked.height},
    )


def _not_worse(subject: Subject, way: str) -> Evidence | NotApplicable:
    columns = ("mode", "source_file", "source_line", "correct", "helpful", "harmless", "tokens_in")
    rounds = curves(after_rounds(subject.columns(*columns, "tokens_out"))).get(way)
    if rounds is None:
        return NotApplicable(f"{way} is none of the experiment's ways")
    change = rounds[-1].against_original
    low, high = change.interval
    return Evidence.of_number(
        "p_worse",
        change.p_worse,
        least=LEVEL,
        statement=f"{way.replace('_', '-')} changes held-out accuracy by {change.difference:+.1%} "
        f"[{low:+.1%}, {high:+.1%}]: {change.gained} won, {change.lost} lost",
        allowed=f"so many losses must be likely by chance (p at least {LEVEL:g})",
        evaluated=change.questions,
        observed={"difference": change.difference},
    )


REFINEMENT_CHECKS = (
    QualityCheck("one_outcome", True, "Each prompt has one outcome in each way.", AGAIN, _one_outcome),
    QualityCheck("rounds_follow", True, "The rounds of a task follow each other.", AGAIN, _rounds_follow),
    QualityCheck(
        "last_good_answer", True, "Each task ends with its last good answer.", AGAIN, _ends_with_last_good
    ),
    QualityCheck(
        "few_fail",
        False,
        f"At most {FAILED_SHARE:.0%} of the tasks fail.",
        "Read their errors: raise refining.max_tokens, or show less (refining.history)",
        _few_fail,
    ),
)


REFINEMENT_EVALUATION_CHECKS = (
    QualityCheck(
        "all_questions_answered",
        True,
        "Every prompt of the evaluation file has one answer in each mode.",
        "Materialise evaluation again; the file may have been changed since",
        _every_mode_answered,
    ),
    *(
        QualityCheck(
            f"{way}_not_worse",
            False,
            f"Answers refined by {way.replace('_', '-')} are not worse than the first answers.",
            "Read what was won and lost; take another way, fewer rounds, or a model that judges better",
            partial(_not_worse, way=way),
        )
        for way in WAYS
    ),
)
