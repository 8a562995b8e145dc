"""Preferences as training data: which pairs are kept, which response is chosen, what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import polars as pl

from selfimprove_dagster.families.judging.preferences import margin_of
from selfimprove_dagster.filters.rules import FAILED, Filter, apply_filters, decision
from selfimprove_dagster.lots import seed_of

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


_ROUNDING = 1e-9


def judged_candidates(preferences: Frame, responses: Frame) -> Frame:
    """One row a preference with what the filters ask for, from the tables of preferences and responses.

    Columns: `candidate_id, prompt_id, prompt, first, second, first_id, second_id, first_finish_reason,
    second_finish_reason, probability, problem`; `probability` is that of the first response to be the better, null with
    a `problem` where the pair could not be judged.
    """
    told = "problem" in preferences.collect_schema()
    rows = preferences.select(
        "prompt_id",
        "prompt",
        "first",
        "second",
        "probability",
        candidate_id="id",
        first_id=pl.col("response_ids").list.get(0),
        second_id=pl.col("response_ids").list.get(1),
        problem=pl.col("problem") if told else pl.lit(None, pl.String),
    )
    for which in ("first", "second"):
        found = responses.select(
            pl.col("id").alias(f"{which}_id"), pl.col("finish_reason").alias(f"{which}_finish_reason")
        )
        rows = rows.join(found, on=f"{which}_id", how="left", maintain_order="left")
    return rows


def compared_candidates(comparisons: Frame) -> Frame:
    """The same columns from comparisons made before (`id`, `prompt`, `chosen`, `rejected`): the first is the
    chosen one, with their `probability` or, where people chose, 1; no finish reason is known.
    """
    given = "probability" in comparisons.collect_schema()
    nothing = pl.lit(None, dtype=pl.String)
    return comparisons.select(
        prompt_id="id",
        prompt="prompt",
        first="chosen",
        second="rejected",
        probability=pl.col("probability") if given else pl.lit(1.0),
        candidate_id="id",
        first_id=nothing,
        second_id=nothing,
        first_finish_reason=nothing,
        second_finish_reason=nothing,
        problem=nothing,
    )


def filter_preferences(
    candidates: pl.DataFrame, minimum_margin: float, hard_labels: bool = False
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The pairs worth training on, and a decision for every pair at every rule it reached.

    `candidates` has the columns of `judged_candidates`. The margin of a pair is |2p − 1|. With `hard_labels`
    ties are dropped.
    """
    rules = [_empty, _unfinished, _equal, _margin_at_least(minimum_margin)]
    return apply_filters(candidates, [*rules, _tie] if hard_labels else rules)


def _empty(candidates: pl.DataFrame) -> pl.DataFrame:
    silent = [_said(which) == "" for which in ("first", "second")]
    why = pl.coalesce(
        pl.when(pl.col(f"{which}_finish_reason").is_in(FAILED)).then(pl.col(f"{which}_finish_reason"))
        for which in ("first", "second")
    )
    reason = (
        pl.when(pl.any_horizontal(silent) & why.is_not_null())
        .then(pl.format("a response could not be generated: {}", why))
        .when(pl.any_horizontal(silent))
        .then(pl.lit("a response says nothing"))
    )
    return decision(
        candidates,
        "empty",
        kept=~pl.any_horizontal(silent),
        reason=reason.otherwise(pl.lit("both responses say something")),
    )


def _unfinished(candidates: pl.DataFrame) -> pl.DataFrame:
    cut = [(pl.col(f"{which}_finish_reason") == "length").fill_null(False) for which in ("first", "second")]
    reason = pl.when(pl.any_horizontal(cut)).then(pl.lit("a response was cut off at the token limit"))
    return decision(
        candidates,
        "unfinished",
        kept=~pl.any_horizontal(cut),
        reason=reason.otherwise(pl.lit("no response was cut off")),
    )


def _equal(candidates: pl.DataFrame) -> pl.DataFrame:
    same = _said("first") == _said("second")
    reason = pl.when(same).then(pl.lit("both responses are the same text"))
    return decision(candidates, "equal", kept=~same, reason=reason.otherwise(pl.lit("the responses differ")))


def _margin_at_least(threshold: float) -> Filter:
    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        margin = margin_of(pl.col("probability"))
        return decision(
            candidates,
            "margin",
            kept=margin >= threshold - _ROUNDING,
            reason=pl.coalesce(
                pl.format("margin {} against at least {}", margin.round(4), pl.lit(threshold)),
                pl.format("the pair could not be judged: {}", "problem"),
            ),
            score=margin,
            threshold=threshold,
        )

    return decide


def _tie(candidates: pl.DataFrame) -> pl.DataFrame:
    preferred = margin_of(pl.col("probability")) > _ROUNDING
    reason = pl.when(preferred).then(pl.lit("one response is preferred"))
    return decision(
        candidates,
        "tie",
        kept=preferred,
        reason=reason.otherwise(pl.lit("neither response is preferred, so there is no hard label")),
    )


def _said(which: str) -> pl.Expr:
    return pl.col(which).str.strip_chars()


def oriented(kept: pl.DataFrame) -> pl.DataFrame:
    """The pairs with `chosen`, `rejected`, `chosen_id`, `rejected_id` in place of first and second, and
    `probability` as that of the chosen one, at least 0.5; of a tie the first is chosen.
    """
    first_wins = pl.col("probability") >= 0.5

    def picked(one: str, other: str) -> pl.Expr:
        return pl.when(first_wins).then(pl.col(one)).otherwise(pl.col(other))

    return kept.select(
        "candidate_id",
        "prompt_id",
        "prompt",
        chosen=picked("first", "second"),
        rejected=picked("second", "first"),
        chosen_id=picked("first_id", "second_id"),
        rejected_id=picked("second_id", "first_id"),
        probability=pl.max_horizontal("probability", 1 - pl.col("probability")),
    )


def hard(probability: float) -> float:
    """The label without its doubt: 1 above 0.5, 0 below; a tie stays one."""
    return 0.5 if abs(2 * probability - 1) <= _ROUNDING else float(probability > 0.5)


def split_held_out(prompts: Sequence[str], share: float, seed: int) -> list[bool]:
    """For the prompt of each pair whether it is held out: each prompt at random, with probability
    `share`, so that all pairs of one prompt fall on one side, whatever other prompts there are.
    """
    return [seed_of(seed, "held out", prompt) / 2**63 < share for prompt in prompts]
