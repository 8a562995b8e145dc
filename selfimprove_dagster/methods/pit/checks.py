"""Checks on improvement: its examples, the model of gaps, and the rounds of improvement."""

from __future__ import annotations

from typing import Any

import polars as pl

from selfimprove_dagster.families.dialogues.checks import AGAIN, section
from selfimprove_dagster.families.preferences.checks import REWARD_MODEL_CHECKS
from selfimprove_dagster.methods.pit.improving import ORIGINAL, PIT
from selfimprove_dagster.methods.pit.pit import GAP_TERMS, KINDS, gap_loss, round_gaps
from selfimprove_dagster.methods.pit.win_rates import outcome
from selfimprove_dagster.quality.dataset import NO_EMPTY_TEXT, NOT_EMPTY
from selfimprove_dagster.quality.questions import NO_OVERLAP
from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted

MOST_TIE_SHARE = 0.25
"""Of the way from r(l,w) to r(w,l): by how much r(w,w) and r(l,l) may differ and still count as alike."""


def _five_a_pair(subject: Subject) -> Evidence:
    kinds = pl.concat_str("first_kind", "second_kind", separator=" > ").sort()
    found = subject.columns("example_id", "first_kind", "second_kind").group_by(id="example_id").agg(kinds)
    wanted = sorted(" > ".join(term) for term in GAP_TERMS)
    right = pl.col("first_kind") == pl.lit(wanted, dtype=pl.List(pl.String))
    terms = found.select("id", right.cast(pl.Int64).alias("complete"))
    return Evidence(
        counted(subject.sibling("filtered_dataset", "id", "prompt"), terms, "complete"),
        (Expect("ExpectColumnValuesToBeInSet", column="complete", value_set=[1]),),
        found="lack a term of the gap loss, or have one twice",
        allowed=f"each pair has {len(GAP_TERMS)} comparisons: {'; '.join(wanted)}",
        unit="pairs",
    )


def _order(subject: Subject) -> dict[tuple[str, str], dict[str, Any]]:
    rows = subject.columns("gap_order")["gap_order"].to_list()
    return {(one["first"], one["second"]): one for found in rows for one in found or ()}


_UNMEASURED = NotApplicable("fewer than two pairs were held out to measure the model on")


def _gap_ordered(subject: Subject) -> Evidence | NotApplicable:
    found = _order(subject).get(("w,l", "l,w"))
    if found is None:
        return _UNMEASURED
    return Evidence.of_number(
        "low",
        found["low"],
        least=0.0,
        statement=f"r(w,l) is above r(l,w) by {found['mean']:.3g} [{found['low']:.3g}, {found['high']:.3g}] "
        f"on average, and on {found['right']} of {found['pairs']} held-out pairs",
        allowed="the interval must lie above 0",
        evaluated=found["pairs"],
        observed={"difference": found["mean"], "right_share": found["right"] / found["pairs"]},
        blocking=section(subject, "gap_checks").on_failure == "stop",
    )


def _order_kept(subject: Subject) -> Evidence | NotApplicable:
    order = _order(subject)
    if not order:
        return _UNMEASURED
    span = abs(order["w,l", "l,w"]["mean"])
    rows = [
        {
            "id": f"r({first}) ≥ r({second})",
            "difference": order[first, second]["mean"],
            "kept": order[first, second]["high"] >= 0,
        }
        for first, second in GAP_TERMS
    ]
    tie = order["w,w", "l,l"]
    alike = abs(tie["mean"]) <= MOST_TIE_SHARE * span or tie["low"] <= 0 <= tie["high"]
    rows.append({"id": "r(w,w) ≈ r(l,l)", "difference": tie["mean"], "kept": alike})
    return Evidence(
        pl.DataFrame(rows),
        (Expect("ExpectColumnValuesToBeInSet", column="kept", value_set=[True]),),
        found="do not hold on average",
        allowed="r(w,l) ≥ r(w,w) ≈ r(l,l) ≥ r(l,w); alike is within "
        f"{MOST_TIE_SHARE:.0%} of r(w,l) − r(l,w), or within chance",
        unit="relations of held-out pairs",
        observed={row["id"]: row["difference"] for row in rows},
    )


def _held_out_loss(subject: Subject) -> Evidence | NotApplicable:
    (loss,) = subject.columns("held_out_loss")["held_out_loss"].to_list() or [None]
    if loss is None:
        return _UNMEASURED
    guess = gap_loss(dict.fromkeys(KINDS, 0.0))
    return Evidence.of_number(
        "held_out_loss",
        loss,
        most=guess,
        statement=f"the loss on held-out pairs is {loss:.3g}",
        allowed=f"it should be below {guess:.3g}, that of a model which rewards every gap alike",
        evaluated=subject.columns("held_out_pairs")["held_out_pairs"][0],
    )


def _rounds_complete(subject: Subject) -> Evidence:
    rounds = section(subject, "evaluation").rounds
    rows = subject.columns("id", "way", "round", "text", "source_file", "source_line")
    place = ["source_file", "source_line"]
    of_pit = pl.col("round").filter(pl.col("way") == PIT).sort()
    found = rows.group_by(place).agg(
        originals=(pl.col("way") == ORIGINAL).sum().cast(pl.Int64),
        rounds=of_pit,
        said=(pl.col("way").is_in([ORIGINAL, PIT]) & pl.col("text").str.contains(r"\S")).sum(),
    )
    every = pl.int_ranges(1, pl.min_horizontal("said", rounds) + 1, dtype=pl.Int32)
    complete = (pl.col("originals") == 1) & (pl.col("rounds") == every)
    frame = subject.evaluation_questions.select("id", *place).join(found, on=place, how="full", coalesce=True)
    return Evidence(
        frame.select(
            pl.col("id").fill_null(pl.format("{}:{} (not in the file)", *place)),
            complete=complete.fill_null(False) & pl.col("id").is_not_null(),
        ),
        (Expect("ExpectColumnValuesToBeInSet", column="complete", value_set=[True]),),
        found="lack their first response or an improvement, or are not in the evaluation file",
        allowed=f"each has a first response and {rounds} improvements in turn, up to a text that says nothing",
        unit="held-out prompts",
    )


def _tells_rounds_apart(subject: Subject) -> Evidence | NotApplicable:
    columns = ("id", "way", "round", "text", "improves_id", "gap_reward", "tie_reward")
    rows = subject.columns(*columns).filter(pl.col("way").is_in([ORIGINAL, PIT]))
    gaps = round_gaps(rows)
    if not gaps:
        return NotApplicable("no response was improved")
    return Evidence(
        pl.DataFrame(
            [{"id": f"round {one.round}", "tells": one.tells_apart, "found": str(one)} for one in gaps]
        ),
        (Expect("ExpectColumnValuesToBeInSet", column="tells", value_set=[True]),),
        statement="; ".join(map(str, gaps)),
        allowed="the interval should lie above a tie in each round; where it does not, the reward no longer "
        "tells the round's responses from those before",
        evaluated=rows.height,
        observed={f"raised_in_round_{one.round}": one.raised.value for one in gaps if one.rows},
    )


IMPROVER_DATASET_CHECKS = (NOT_EMPTY, NO_EMPTY_TEXT, NO_OVERLAP)


GAP_PAIR_CHECKS = (
    NO_OVERLAP,
    QualityCheck("five_a_pair", True, "Each pair has the five terms of the gap loss.", AGAIN, _five_a_pair),
)


GAP_REWARD_MODEL_CHECKS = (
    *REWARD_MODEL_CHECKS,
    QualityCheck(
        "gap_ordered",
        True,
        "Held out, the better response against the worse is rewarded above the worse against the better.",
        "Train it longer (gap_reward_model.steps), on more pairs, or on surer ones "
        "(preferences.minimum_margin). `gap_checks.on_failure: warn` goes on all the same",
        _gap_ordered,
    ),
    QualityCheck(
        "held_out_loss",
        False,
        "Training did not raise the loss on held-out pairs above that of a model without an opinion.",
        "Train it for fewer steps or at a lower rate (gap_reward_model), or on more pairs: it learnt pairs by heart",
        _held_out_loss,
    ),
    QualityCheck(
        "order_kept",
        False,
        "Held out, r(w,l) ≥ r(w,w) ≈ r(l,l) ≥ r(l,w) holds on average.",
        "Train it longer, or on more pairs",
        _order_kept,
    ),
)


IMPROVEMENT_ROUND_CHECKS = (
    QualityCheck(
        "rounds_complete",
        True,
        "Each held-out prompt has a first response and every round of improvement.",
        AGAIN,
        _rounds_complete,
    ),
    QualityCheck(
        "tells_rounds_apart",
        False,
        "The gap reward still tells each round's responses from those before.",
        "Use no more rounds than it tells apart (evaluation.rounds, evaluation.decided_in), or train a "
        "better gap reward model",
        _tells_rounds_apart,
    ),
)


def _outcomes(subject: Subject) -> Evidence:
    rows = subject.measured("id", "preferred", "outcome", "first_text", "second_text")
    says = rows["preferred"].map_elements(outcome, return_dtype=pl.String)
    return Evidence(
        rows.with_columns(says=says),
        (
            Expect("ExpectColumnValuesToBeBetween", column="preferred", min_value=0, max_value=1),
            Expect("ExpectColumnPairValuesToBeEqual", column_A="outcome", column_B="says"),
        ),
        found="do not follow from how much the first response is preferred",
        allowed="a win is above one half, a loss below, a tie at it",
        unit="contests",
    )


def _every_judge(subject: Subject) -> Evidence:
    met = subject.columns("first", "second", "judge", "source_file", "source_line")
    place = pl.concat_str("source_file", "source_line", separator=":")
    heard = met.group_by(id=pl.concat_str("first", "second", place, separator=" ")).agg(
        judges=pl.col("judge").n_unique()
    )
    return Evidence(
        heard.with_columns(pl.col("judges").cast(pl.Int64)),
        (Expect("ExpectColumnValuesToBeInSet", column="judges", value_set=[met["judge"].n_unique()]),),
        found="were not decided by every judge",
        allowed=f"each contest is decided by {', '.join(met['judge'].unique().sort())}",
        unit="contests",
    )


WIN_RATE_CHECKS = (
    QualityCheck("outcomes_follow", True, "Outcomes follow from preferences.", AGAIN, _outcomes),
    QualityCheck("every_judge_decided", True, "Every judge decided every contest.", AGAIN, _every_judge),
)
"""Of win_rates."""
