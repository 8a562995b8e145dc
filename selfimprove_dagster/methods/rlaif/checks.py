"""Checks on judging: comparisons, labels, the judge itself, pairs, reward models, and what they reward."""

from __future__ import annotations

from functools import partial

import polars as pl

from selfimprove_dagster.families.dialogues.checks import (
    AGAIN,
    PRINCIPLES_KNOWN,
    ROUNDING,
    counted_by_prompt,
    section,
)
from selfimprove_dagster.families.judging.integrity import MEASURES
from selfimprove_dagster.families.judging.preferences import PAIR, aggregate
from selfimprove_dagster.quality.completions import COMPLETION_CHECKS
from selfimprove_dagster.quality.results import Evidence, Expect, NotApplicable, QualityCheck
from selfimprove_dagster.quality.subject import Subject, counted

# ---- comparisons and labels ----------------------------------------------------------------------------

_PAIR = pl.concat_str("prompt_id", pl.lit(": "), pl.col("response_ids").list.join(" ")).alias("id")
"""A pair in words, to count by."""


def _probabilities(subject: Subject) -> Evidence:
    return Evidence(
        subject.measured("id", "principle", "order", "probability_a"),
        (
            Expect("ExpectColumnValuesToBeBetween", column="probability_a", min_value=0, max_value=1),
            Expect("ExpectColumnValuesToBeInSet", column="order", value_set=[0, 1]),
        ),
        found="have a probability that is not between 0 and 1, or an order that is none",
        allowed="the options' probabilities sum to 1, and the order is 0 or 1",
        unit="comparisons",
    )


def _orders_asked(subject: Subject) -> Evidence:
    both = subject.manifest.activity.parameters["judge"]["both_orders"]
    wanted = [0, 1] if both else [0]
    rows = subject.columns(*PAIR, "principle", "repeat", "order").with_columns(_PAIR)
    orders = rows.group_by("id", "principle", "repeat", maintain_order=True).agg(pl.col("order").sort())
    right = pl.col("order") == pl.lit(wanted, dtype=pl.List(pl.Int32))
    return Evidence(
        orders.select("id", "principle", "repeat", right=right),
        (Expect("ExpectColumnValuesToBeInSet", column="right", value_set=[True]),),
        found="were not asked in each order once",
        allowed=f"each pair is asked about in {'both orders' if both else 'one order'} (judge.both_orders)",
        unit="pairs times principles",
    )


def _one_label_a_pair(subject: Subject) -> Evidence:
    compared = subject.sibling("comparisons", *PAIR, "repeat").filter(~pl.col("repeat"))
    labels = subject.columns(*PAIR).group_by(_PAIR).agg(labels=pl.len())
    return Evidence(
        counted(compared.select(_PAIR).unique(maintain_order=True), labels, "labels"),
        (Expect("ExpectColumnValuesToBeInSet", column="labels", value_set=[1]),),
        found="have no label, several, or were never compared",
        allowed="each pair that was compared has one",
        unit="pairs",
    )


def _mean_of_orders(subject: Subject) -> Evidence:
    numbers = ("probability", "as_first", "as_second")
    needed = ("id", *PAIR, "principle", "order", "repeat", "probability_a")
    clamp = subject.manifest.activity.parameters.get("clamp", 0.0)
    means = aggregate(subject.sibling("comparisons", *needed), clamp).select(
        *PAIR, *(pl.col(name).alias(f"mean_{name}") for name in numbers)
    )
    rows = subject.measured("id", *PAIR, *numbers).join(means, on=PAIR, how="left", maintain_order="left")
    off = [(pl.col(name) - pl.col(f"mean_{name}")).abs() for name in numbers]
    one_order = [pl.col(name).is_null() & pl.col(f"mean_{name}").is_null() for name in numbers]
    right = [(far <= ROUNDING).fill_null(False) | none for far, none in zip(off, one_order, strict=True)]
    follows = pl.all_horizontal(right) & pl.col("probability").is_not_null()
    return Evidence(
        rows.select("id", "probability", "mean_probability", follows=follows),
        (Expect("ExpectColumnValuesToBeInSet", column="follows", value_set=[True]),),
        found="do not follow from their comparisons",
        allowed="a label is the mean over orders, then over principles, of the clamped probabilities",
        unit="labels",
    )


# ---- the judge -----------------------------------------------------------------------------------------


def _measure(subject: Subject, measure: str) -> Evidence | NotApplicable:
    columns = ("measure", "value", "low", "high", "least", "most", "pairs", "passed", "statement", "allowed")
    found = subject.columns(*columns).filter(measure=measure)
    blocking = section(subject, "judge_checks").on_failure == "stop"
    if found.height != 1:
        return Evidence(
            found.select(id="measure"),
            (Expect("ExpectTableRowCountToEqual", value=1),),
            statement=f"the measure is in the table {found.height} times",
            allowed="it must be in the table once",
            blocking=blocking,
        )
    (row,) = found.to_dicts()
    if row["value"] is None and row["pairs"] == 0:
        return NotApplicable(row["statement"])
    least, most = row["least"], row["most"]
    return Evidence.of_number(
        measure,
        row["value"],
        least=None if least is None else least - ROUNDING,
        most=None if most is None else most + ROUNDING,
        statement=row["statement"],
        allowed=f"{row['allowed']} is allowed (judge_checks)",
        evaluated=row["pairs"],
        observed={name: row[name] for name in ("low", "high") if row[name] is not None},
        blocking=blocking,
    )


RESPONSE_PAIR_CHECKS = (
    *COMPLETION_CHECKS,
    QualityCheck(
        "two_a_prompt",
        True,
        "Each prompt has two responses.",
        "Materialise response_pairs again after its seed pool",
        partial(counted_by_prompt, each=2),
    ),
)


COMPARISON_CHECKS = (
    QualityCheck(
        "probabilities",
        True,
        "Probabilities are between 0 and 1.",
        "The engine gives wrong probabilities: try another device or number format",
        _probabilities,
    ),
    QualityCheck(
        "orders_asked",
        True,
        "Each pair was asked about in both orders, if it was to be.",
        AGAIN,
        _orders_asked,
    ),
    PRINCIPLES_KNOWN,
)


PREFERENCE_CHECKS = (
    QualityCheck("one_a_pair", True, "Each pair has one label.", AGAIN, _one_label_a_pair),
    QualityCheck(
        "mean_of_orders",
        True,
        "Every label is the mean of its comparisons.",
        AGAIN,
        _mean_of_orders,
    ),
)


_TRUSTED = {
    "order_flip_agreement": "The judge prefers the same response in both orders.",
    "position_balance": "The judge does not favour (A) or (B).",
    "self_agreement": "The judge prefers the same response when it is asked again.",
    "length_bias": "The judge does not favour the longer or the shorter response.",
    "undecided_share": "Most labels say which response is better.",
    "calibration": "The judge is as sure as it is right by the labels of reviewers.",
}


JUDGE_CHECKS = tuple(
    QualityCheck(
        name,
        True,
        _TRUSTED[name],
        "Read some comparisons; then take another judge, let it reason, or give it other principles. "
        "`judge_checks.on_failure: warn` goes on all the same",
        partial(_measure, measure=name),
    )
    for name in MEASURES
)
