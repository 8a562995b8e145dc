"""Language models can self-improve: self-consistency as a teacher.

Huang et al., "Large Language Models Can Self-Improve" (2210.11610), section 3. For each unlabelled question
m reasoning paths are sampled; the answers they state are put to a vote (Wang et al., 2203.11171); every path
that reaches the voted answer becomes a training example in one of four formats (section 3.2):

    few_shot_cot       demonstrations with reasoning, then the question; target: the path
    few_shot_direct    demonstrations with bare answers, then the question; target: the voted answer
    zero_shot_cot      the question and "Let's think step by step."; target: the path
    zero_shot_direct   the question and "The answer is"; target: the voted answer

No function here sees a true answer.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import polars as pl

from selfimprove_dagster.answers.answers import through_answer
from selfimprove_dagster.answers.languages import DEFAULT, Conventions
from selfimprove_dagster.families.questions.prompts import DIRECT_FORMATS
from selfimprove_dagster.filters.rules import (
    Filter,
    agrees_with_vote,
    apply_filters,
    at_most_per_question,
    drop_duplicates,
    ended,
    no_tie,
    perplexity_at_most,
    vote_share_at_least,
    votes_at_least,
    winning_votes_at_least,
)
from selfimprove_dagster.lots import lots, seed_of

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def candidates(paths: Frame, scores: Frame, votes: Frame) -> Frame:
    """One row a path with all that the filters ask for, from the tables of paths, scores and votes.

    Columns: `candidate_id, question_id, question, text, text_key, answer, voted_answer, vote_id, vote_share,
    winning_votes, n_valid, tie, finish_reason, perplexity`, and `problem` if `paths` has it, in the order of `paths`.
    """
    ballots = votes.select("paths").explode("paths").unnest("paths").rename({"id": "candidate_id"})
    verdicts = votes.select(
        *("question_id", "question", "voted_answer", "vote_share", "n_valid", "tie"),
        pl.col("id").alias("vote_id"),
    )
    counted = votes.select("question_id", "voted_answer", "votes").explode("votes").unnest("votes")
    won = counted.filter(pl.col("answer") == pl.col("voted_answer"))
    return (
        paths.select(
            "question_id",
            pl.col("id").alias("candidate_id"),
            "text",
            "finish_reason",
            pl.col("text").str.strip_chars().alias("text_key"),
            pl.col("^problem$"),  # paths of earlier versions have no such column
        )
        .join(ballots, on="candidate_id", how="left", maintain_order="left")
        .join(verdicts, on="question_id", how="left", maintain_order="left")
        .join(
            won.select("question_id", pl.col("count").alias("winning_votes")),
            on="question_id",
            how="left",
            maintain_order="left",
        )
        .join(
            scores.select(pl.col("path_id").alias("candidate_id"), "perplexity"),
            on="candidate_id",
            how="left",
            maintain_order="left",
        )
    )


@dataclass(frozen=True)
class FilterThresholds:
    """Which paths become examples; None or False switches a rule off."""

    minimum_vote_share: float
    minimum_votes: int = 1
    minimum_winning_votes: int = 1
    drop_ties: bool = False
    maximum_perplexity: float | None = None
    maximum_paths: int | None = None
    drop_duplicates: bool = True


def filter_paths(
    candidates: pl.DataFrame,
    thresholds: FilterThresholds,
    seed: int,
    conventions: Conventions = DEFAULT,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The paths worth training on, and a decision for every path at every rule it reached.

    `candidates` has one row a path: `candidate_id, question_id, question, text_key, answer, voted_answer, vote_share,
    winning_votes, n_valid, tie, finish_reason, perplexity`. Of those that agree with the vote and ended by themselves,
    `text_key` is cut after the answer: what a model goes on to write is no part of the example. Thresholds can be
    changed and this run again without generating anything. `conventions` say how answers are written.
    """
    agreed, decisions = apply_filters(candidates, [agrees_with_vote, ended])
    agreed = agreed.with_columns(
        pl.col("text_key")
        .map_elements(lambda text: through_answer(text, conventions), return_dtype=pl.String)
        .str.strip_chars()
    )
    filters: list[Filter] = [vote_share_at_least(thresholds.minimum_vote_share)]
    if thresholds.drop_ties:
        filters.append(no_tie)
    if thresholds.minimum_winning_votes > 1:
        filters.append(winning_votes_at_least(thresholds.minimum_winning_votes))
    if thresholds.minimum_votes > 1:
        filters.append(votes_at_least(thresholds.minimum_votes))
    if thresholds.maximum_perplexity is not None:
        filters.append(perplexity_at_most(thresholds.maximum_perplexity))
    if thresholds.drop_duplicates:
        filters.append(drop_duplicates)
    if thresholds.maximum_paths is not None:
        filters.append(at_most_per_question(thresholds.maximum_paths, seed))
    kept, further = apply_filters(agreed, filters)
    return kept, pl.concat([decisions, further])


def assign_formats(kept: pl.DataFrame, shares: Mapping[str, float], seed: int) -> pl.DataFrame:
    """Add a column `format`, drawn by share for each path.

    The columns are `candidate_id, question_id, question, text_key`; the lots are those of question and text.


    A direct format's target is the voted answer alone, so it would be the same example for every path of a
    question: the first path of the question that draws it keeps it, the others draw a reasoning format by
    the same shares (or, where shares name none, are left out). The lots are others than those by which
    `filter_paths` chose the paths: paths that are there because their lot was low would else all draw the
    formats whose shares come first.
    """
    reasoning = {name: share for name, share in shares.items() if name not in DIRECT_FORMATS and share > 0}
    keys = ["question", "text_key"]
    drawn = kept.with_columns(_formats_by_lot(shares, lots(kept, keys, seed_of(seed, "format"))))
    repeated = pl.col("format").is_in(DIRECT_FORMATS) & (
        pl.col("candidate_id") != pl.col("candidate_id").first().over("question_id", "format")
    )
    if not reasoning:
        return drawn.filter(~repeated)
    again = _formats_by_lot(reasoning, lots(kept, keys, seed_of(seed, "reasoning format"))).alias("again")
    return (
        drawn.with_columns(again)
        .with_columns(pl.when(repeated).then("again").otherwise("format").alias("format"))
        .drop("again")
    )


def _formats_by_lot(shares: Mapping[str, float], drawn: pl.Series) -> pl.Series:
    """The format in whose share each lot falls, shares laid end to end in name order."""
    names = sorted(name for name, share in shares.items() if share > 0)
    bounds = list(accumulate(shares[name] / sum(shares.values()) for name in names))
    chosen = [names[min(bisect(bounds, lot), len(names) - 1)] for lot in drawn]
    return pl.Series("format", chosen, dtype=pl.String)
