"""Candidates of a dataset, with what models found out about them, and the vote on each question.

Wang et al. (2203.11171, section 2): of several answers to a question, the one that most of them state is the most
likely. Chen et al. (2307.08701): training on the examples that a model rates well is better than training on all.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import polars as pl

from selfimprove_dagster.answers.answers import extract_answers

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def short_answers(texts: pl.Series, how: Literal["stated", "text"]) -> pl.Series:
    """Return what each text votes for: the answer that it states, or all of it, case and white space aside."""
    if how == "stated":
        return extract_answers(texts)
    plain = texts.str.replace_all(r"\s+", " ").str.strip_chars().str.to_lowercase()
    return plain.replace("", None)


def votes(answers: pl.DataFrame) -> pl.DataFrame:
    """Return a row per question, in their order, from rows of `question_id`, `candidate_id` and `answer`.

    - voted_answer: the most frequent answer, of several the first to appear; null if no answer can be read
    - votes: every answer with its count, the most frequent first; paths: each candidate with its answer
    - n_paths, n_valid: candidates, and those with an answer; vote_share: votes for the voted answer / n_valid
    - tie: whether two answers share the most votes
    """
    counted = (
        answers.drop_nulls("answer")
        .with_row_index("place")
        .group_by("question_id", "answer")
        .agg(pl.len().alias("count"), pl.col("place").min())
        .sort("count", "place", descending=[True, False])
        .group_by("question_id", maintain_order=True)
        .agg(
            voted_answer=pl.col("answer").first(),
            votes=pl.struct("answer", "count"),
            most=pl.col("count").first(),
            tie=pl.col("count").eq(pl.col("count").first()).sum() > 1,
        )
    )
    asked = answers.group_by("question_id", maintain_order=True).agg(
        paths=pl.struct(id="candidate_id", answer="answer"),
        n_paths=pl.len(),
        n_valid=pl.col("answer").count(),
    )
    joined = asked.join(counted, on="question_id", how="left", maintain_order="left")
    return joined.select(
        "question_id",
        "voted_answer",
        pl.col("votes").fill_null(
            pl.lit([], dtype=pl.List(pl.Struct({"answer": pl.String, "count": pl.UInt32})))
        ),
        "paths",
        pl.col("tie").fill_null(False),
        pl.col("n_paths", "n_valid").cast(pl.UInt32),
        vote_share=pl.col("most") / pl.col("n_valid"),
    )


def judged(candidates: Frame, scores: Frame, ratings: Frame, votes: Frame) -> Frame:
    """Return a row per candidate with what filters read of it, from the tables of an iteration.

    `text` is the answer. A measure that no filter needed is null.
    """
    ballots = votes.select("paths").explode("paths").unnest("paths").rename({"id": "candidate_id"})
    tables = (
        scores.select("candidate_id", "perplexity", unscored="problem"),
        ratings.select("candidate_id", "rating", unrated="problem"),
        ballots,
    )
    rows = candidates.select(
        *("question_id", "instruction", "input", "output", "problem"),
        candidate_id="id",
        question=pl.concat_str("instruction", "input", separator="\n").str.strip_chars(),
        text="output",
    )
    for table in tables:
        rows = rows.join(table, on="candidate_id", how="left", maintain_order="left")
    voted = votes.select("question_id", "voted_answer", "vote_share", "tie")
    return rows.join(voted, on="question_id", how="left", maintain_order="left")
