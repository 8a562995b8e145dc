"""Filters by what a text holds: its language, personal data, secrets, toxicity.

Each asks a maintained library, which has to be installed. A detector is a function from texts to findings; it is made
when the filter is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from selfimprove_dagster.filters.rules import Filter, decision

Spans = Callable[[Sequence[str]], list[list[str]]]
"""Returns for each text the kinds of what was found in it, such as `EMAIL_ADDRESS`."""

Scores = Callable[[Sequence[str]], list[float | None]]
"""Returns a score from 0 to 1 for each text; None if it has none."""


def texts_of(candidates: pl.DataFrame) -> list[str]:
    """Return question and answer of each candidate as one text."""
    both = pl.concat_str(pl.col("question").fill_null(""), pl.col("text").fill_null(""), separator="\n")
    return candidates.select(both.str.strip_chars()).to_series().to_list()


def holds_none(rule: str, find: Spans, what: str) -> Filter:
    """Drop candidates in which something is found; the reason names the kinds, not the text."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        found = find(texts_of(candidates))
        reasons = [
            f"{what}: {', '.join(sorted(set(kinds)))}" if kinds else f"no {what} found" for kinds in found
        ]
        judged = candidates.select("candidate_id").with_columns(
            pl.Series("count", [len(kinds) for kinds in found], dtype=pl.Int64),
            pl.Series("told", reasons, dtype=pl.String),
        )
        count = pl.col("count")
        return decision(judged, rule, kept=count == 0, reason=pl.col("told"), score=count, threshold=0)

    return decide


def score_within(
    rule: str, score: Scores, what: str, least: float | None = None, most: float | None = None
) -> Filter:
    """Keep candidates whose score is at least `least`, or at most `most`; one of the two is given.

    A text without a score, such as digits without any language, is kept.
    """
    side, threshold = ("least", least) if least is not None else ("most", most)

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        found = pl.Series("score", score(texts_of(candidates)), dtype=pl.Float64)
        judged = candidates.select("candidate_id").with_columns(found)
        value = pl.col("score")
        kept = value >= threshold if side == "least" else value <= threshold
        reason = pl.format(f"{what} {{}} against at {side} {{}}", value.round(3), pl.lit(threshold))
        return decision(
            judged,
            rule,
            kept=kept | value.is_null(),
            reason=pl.coalesce(reason, pl.lit(f"too short for a {what}")),
            score=value,
            threshold=threshold,
        )

    return decide
