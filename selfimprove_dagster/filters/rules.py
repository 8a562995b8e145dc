"""Apply filters in order and record their decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from selfimprove_dagster.filters.tokenisers import Tokeniser
from selfimprove_dagster.lots import lots

Filter = Callable[[pl.DataFrame], pl.DataFrame]


FAILED = ("too_long", "refused", "failed")
"""The finish reasons of completions that could not be generated; see `language_model.base.Generation`."""


DECISION_COLUMNS = {
    "candidate_id": pl.String,
    "rule": pl.String,
    "kept": pl.Boolean,
    "score": pl.Float64,
    "threshold": pl.Float64,
    "reason": pl.String,
    "nearest_id": pl.String,
}


def apply_filters(candidates: pl.DataFrame, filters: Sequence[Filter]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the candidates (column `candidate_id`) that pass all filters, and every decision.

    The order of rows is kept. Each filter sees only what the filters before it kept.
    """
    decisions = [pl.DataFrame(schema=DECISION_COLUMNS)]
    for decide in filters:
        verdicts = decide(candidates)
        decisions.append(verdicts)
        kept = verdicts.filter("kept").select("candidate_id")
        candidates = candidates.join(kept, on="candidate_id", how="semi", maintain_order="left")
    return candidates, pl.concat(decisions)


def decision(
    candidates: pl.DataFrame,
    rule: str,
    *,
    kept: pl.Expr,
    reason: pl.Expr,
    score: pl.Expr | None = None,
    threshold: float | None = None,
    nearest_id: pl.Expr | None = None,
) -> pl.DataFrame:
    """Return one decision per candidate, from expressions over the candidates' columns.

    A candidate that cannot be decided on, because a value is missing, is dropped.
    """
    return candidates.select(
        pl.col("candidate_id"),
        pl.lit(rule).alias("rule"),
        kept.fill_null(False).alias("kept"),
        (pl.lit(None) if score is None else score).cast(pl.Float64).alias("score"),
        pl.lit(threshold, dtype=pl.Float64).alias("threshold"),
        reason.fill_null("nothing to decide it by: a value is missing").alias("reason"),
        (pl.lit(None) if nearest_id is None else nearest_id).cast(pl.String).alias("nearest_id"),
    )


def could_be_read(candidates: pl.DataFrame) -> pl.DataFrame:
    """Keep what was parsed from a completion without a problem (column `problem`, null without one)."""
    problem = pl.col("problem")
    return decision(candidates, "readable", kept=problem.is_null(), reason=problem.fill_null("could be read"))


def ended(candidates: pl.DataFrame) -> pl.DataFrame:
    """Drop texts that the token limit cut off (`finish_reason`): as examples they would end where they do not."""
    cut = pl.col("finish_reason") == "length"
    reason = pl.when(cut).then(pl.lit("cut off at the token limit")).otherwise(pl.lit("ends by itself"))
    reason = pl.when(pl.col("finish_reason").is_not_null()).then(reason)
    return decision(candidates, "ended", kept=~cut, reason=reason)


def drop_duplicates(candidates: pl.DataFrame) -> pl.DataFrame:
    """Keep the first of several equal texts (`text_key`) of one question (`question_id`)."""
    first = pl.col("candidate_id").first().over("question_id", "text_key")
    kept = pl.col("candidate_id") == first
    reason = (
        pl.when(kept)
        .then(pl.lit("no equal path before it"))
        .otherwise(pl.format("the same text as {}", first))
    )
    nearest = pl.when(kept).then(None).otherwise(first)
    return decision(candidates, "duplicate", kept=kept, reason=reason, nearest_id=nearest)


def at_most_per_question(most: int, seed: int) -> Filter:
    """Keep at most `most` candidates per question, sampled by the seed, the `question` and their `text_key`."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        candidates = candidates.with_columns(lots(candidates, ["question", "text_key"], seed))
        rank = pl.col("lot").rank("ordinal").over("question_id")
        reason = pl.format("number {} of its question by lot, at most {}", rank, pl.lit(most))
        return decision(
            candidates, "paths_per_question", kept=rank <= most, reason=reason, score=rank, threshold=most
        )

    return decide


def perplexity_of(logprobs: pl.Expr) -> dict[str, pl.Expr]:
    """Return `tokens`, `mean_logprob` (natural logarithm) and `perplexity` = exp(−mean) of a list column.

    An empty list has a mean of 0 and a perplexity of 1. Both are null if a token could not be scored (NaN).
    """
    mean = logprobs.cast(pl.List(pl.Float64)).list.mean().fill_null(0.0).fill_nan(None)
    return {
        "tokens": logprobs.list.len().cast(pl.Int32),
        "mean_logprob": mean,
        "perplexity": (-mean).exp(),
    }


def perplexity_at_most(threshold: float) -> Filter:
    """Keep candidates whose `perplexity` is at most `threshold`; a column `unscored` may say why it is missing."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        score = pl.col("perplexity")
        reason = pl.format("perplexity {} against at most {}", score.round(3), pl.lit(threshold))
        if "unscored" in candidates.columns:
            reason = pl.coalesce(reason, "unscored")
        return decision(
            candidates, "perplexity", kept=score <= threshold, reason=reason, score=score, threshold=threshold
        )

    return decide


def agrees_with_vote(candidates: pl.DataFrame) -> pl.DataFrame:
    """Keep paths whose answer equals the voted one. Columns: `answer`, `voted_answer`, both canonical.

    The column `problem` may say why a path could not be generated.
    """
    problem = pl.col("problem") if "problem" in candidates.columns else pl.lit(None, pl.String)
    agrees = (pl.col("answer") == pl.col("voted_answer")).fill_null(False)
    reason = (
        pl.when(agrees)
        .then(pl.format("answers {}, as the vote does", "answer"))
        .when(problem.is_not_null())
        .then(problem)
        .when(pl.col("answer").is_null())
        .then(pl.lit("states no answer that can be read"))
        .otherwise(pl.format("answers {}; the vote is {}", "answer", "voted_answer"))
    )
    return decision(candidates, "agrees_with_vote", kept=agrees, reason=reason)


def vote_share_at_least(threshold: float) -> Filter:
    """Keep paths of questions whose voted answer has at least this share of the paths."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        share = pl.col("vote_share")
        reason = pl.format("vote share {} against at least {}", share.round(4), pl.lit(threshold))
        return decision(
            candidates, "vote_share", kept=share >= threshold, reason=reason, score=share, threshold=threshold
        )

    return decide


def no_tie(candidates: pl.DataFrame) -> pl.DataFrame:
    """Drop paths of questions on which two answers share the most votes (`tie`)."""
    tie = pl.col("tie")
    reason = (
        pl.when(tie)
        .then(pl.lit("another answer has as many votes"))
        .otherwise(pl.lit("no other answer has as many votes"))
    )
    return decision(candidates, "tie", kept=~tie, reason=pl.when(tie.is_not_null()).then(reason))


def winning_votes_at_least(threshold: int) -> Filter:
    """Keep paths of questions whose voted answer has at least `threshold` votes (column `winning_votes`)."""
    return _at_least("winning_votes", pl.col("winning_votes"), threshold, "votes for the answer")


def votes_at_least(threshold: int) -> Filter:
    """Keep paths of questions with at least `threshold` valid votes."""
    return _at_least("valid_votes", pl.col("n_valid"), threshold, "valid votes")


def _at_least(rule: str, count: pl.Expr, threshold: int, what: str) -> Filter:
    """Keep candidates whose count of `what` is at least `threshold`."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        reason = pl.format(f"{{}} {what} against at least {{}}", count, pl.lit(threshold))
        return decision(
            candidates, rule, kept=count >= threshold, reason=reason, score=count, threshold=threshold
        )

    return decide


def rating_at_least(threshold: float) -> Filter:
    """Keep candidates whose `rating`, from 1 to 10, is at least `threshold`; `unrated` says why there is none."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        score = pl.col("rating")
        rated = pl.format("rating {} against at least {}", score.round(2), pl.lit(threshold))
        return decision(
            candidates,
            "annotation",
            kept=score >= threshold,
            reason=pl.coalesce(rated, "unrated"),
            score=score,
            threshold=threshold,
        )

    return decide


def agrees_clearly(threshold: float, drop_ties: bool = True) -> Filter:
    """Keep candidates that answer as the vote on their question does, with at least this share of all its answers.

    Columns: `answer`, `voted_answer`, `vote_share`, `tie`.
    """

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        share, torn = pl.col("vote_share"), pl.col("tie") if drop_ties else pl.lit(False)
        agrees = (pl.col("answer") == pl.col("voted_answer")).fill_null(False)
        said = pl.format("vote share {} against at least {}", share.round(4), pl.lit(threshold))
        reason = (
            pl.when(pl.col("answer").is_null())
            .then(pl.lit("states no answer that can be read"))
            .when(~agrees)
            .then(pl.format("answers {}; the vote is {}", "answer", "voted_answer"))
            .when(torn)
            .then(pl.lit("another answer has as many votes"))
            .otherwise(said)
        )
        kept = agrees & ~torn & (share >= threshold)
        return decision(
            candidates, "self_consistency", kept=kept, reason=reason, score=share, threshold=threshold
        )

    return decide


def words_between(least: int, most: int | None, tokeniser: Tokeniser) -> Filter:
    """Keep candidates whose `text` has at least `least` and at most `most` tokens of the tokeniser."""

    def decide(candidates: pl.DataFrame) -> pl.DataFrame:
        counted = candidates.with_columns(
            words=pl.col("text").map_elements(lambda text: len(tokeniser(text)), return_dtype=pl.Int64)
        )
        count, above = pl.col("words"), pl.lit(None, pl.Int64) if most is None else pl.lit(most)
        is_long = (count > above).fill_null(False)
        bound, side = pl.when(is_long).then(above).otherwise(least), pl.when(is_long).then(pl.lit("most"))
        decided = decision(
            counted,
            "words",
            kept=(count >= least) & ~is_long,
            reason=pl.format("{} words against at {} {}", count, side.otherwise(pl.lit("least")), bound),
            score=count,
        )
        return decided.with_columns(threshold=counted.select(bound.cast(pl.Float64)).to_series())

    return decide
