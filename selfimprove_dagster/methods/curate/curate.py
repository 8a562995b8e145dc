"""Candidates of a dataset, with what models found out about them.

Chen et al. (2307.08701): training on the examples that a model rates well is better than training on all.
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
