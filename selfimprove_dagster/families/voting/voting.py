"""Self-consistency: the vote over a question's sampled reasoning paths.

Source: Wang et al. 2022 (arXiv 2203.11171) §2: of m sampled paths (r_i, a_i) take the answer that maximises
Σ_i 1(a_i = a); the reasoning r_i is marginalised out. Their Table 1 also weights each path by its probability.
Huang et al. 2022 (arXiv 2210.11610) §3.1 keep every path that agrees with that answer and use as confidence its votes
"divided by the total path number m".

What the papers leave open, here: a path whose answer cannot be read is not a vote, but counts among the m
paths; and a tie goes to the answer whose first supporting path has the lowest sample index, and is recorded as a tie.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import polars as pl

Rule = Literal["majority", "random_path"]


_UNIT = 10**12
"""Weights are added as whole numbers of this part, so that their sum does not depend on the order."""


INPUT_COLUMNS = ("question_id", "path_id", "sample_index", "answer", "text_key")


SCHEMA: dict[str, pl.DataType] = {
    "question_id": pl.String(),
    "voted_answer": pl.String(),
    "votes": pl.List(pl.Struct({"answer": pl.String, "count": pl.UInt32})),
    "n_paths": pl.UInt32(),
    "n_valid": pl.UInt32(),
    "n_distinct_paths": pl.UInt32(),
    "n_distinct_answers": pl.UInt32(),
    "vote_share": pl.Float64(),
    "margin": pl.Float64(),
    "readable_share": pl.Float64(),
    "tie": pl.Boolean(),
    "path_ids": pl.List(pl.String),
    "answers": pl.List(pl.String),
}


def vote(
    paths: pl.DataFrame, *, rule: Rule = "majority", seed: int = 0, drawn_by: str = "question_id"
) -> pl.DataFrame:
    """One row a question, in the order in which questions first appear, with the columns of `SCHEMA`.

    `paths` has one row a sampled path: `question_id`, `path_id`, `sample_index`, `answer` (canonical, null
    where the path states none) and `text_key` (equal for paths of equal text). A column `weight`, from 0 to 1, says
    how much a path's vote counts; without it each counts 1, and null counts 0. Weights are rounded to 12 decimals.

    rule "majority": the answer with the most votes. "random_path": the answer of one path drawn uniformly
    among the question's valid ones, which is what a single sample would have given: the control arm that
    shows what the vote adds. The draw depends on `seed`, the question's value in the column `drawn_by` and its
    paths, not on row order.

    - votes: every answer with the count of its paths, most weight first, then by first appearance
    - n_valid: paths with an answer; n_distinct_paths: different texts among all paths
    - vote_share: weight of the voted answer / weight of all m paths; margin: (its weight − most weight of another
      answer) / weight of all m paths, which "random_path" can make negative; both null when no path has an answer, or
      all weights are 0
    - readable_share: n_valid / m
    - tie: whether two answers or more share the most weight, under either rule
    - path_ids, answers: all paths in sample order, aligned

    The result for a question does not depend on the order of rows. Paths of one question that share a sample
    index are ordered by path id.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule {rule!r}: choose one of {', '.join(get_args(Rule))}")
    missing = [name for name in (*INPUT_COLUMNS, drawn_by) if name not in paths.columns]
    if missing:
        raise ValueError(f"vote needs columns {', '.join(INPUT_COLUMNS)}; missing: {', '.join(missing)}")
    for name in dict.fromkeys(("question_id", "path_id", "sample_index", drawn_by)):
        if paths[name].null_count():
            raise ValueError(f"vote: {paths[name].null_count()} paths have no {name}")

    rows = paths.with_columns(drawn_by=drawn_by)
    weight = pl.len().cast(pl.Int64)
    if "weight" in paths.columns:
        rows = rows.with_columns((pl.col("weight") * _UNIT).round().fill_null(0).cast(pl.Int64))
        weight = pl.col("weight").sum()
    ordered = _in_sample_order(rows)
    questions = ordered.group_by("question", maintain_order=True).agg(
        pl.col("question_id", "drawn_by").first(),
        pl.len().alias("n_paths"),
        pl.col("answer").count().alias("n_valid"),
        weight.alias("all"),
        pl.col("text_key").n_unique().alias("n_distinct_paths"),
        pl.col("path_id").alias("path_ids"),
        pl.col("answer").alias("answers"),
    )
    votes = questions.join(
        _tally(ordered, weight), on="question", how="left", maintain_order="left"
    ).with_columns(
        pl.col("votes").fill_null(pl.lit([], dtype=SCHEMA["votes"])),
        pl.col("weights").fill_null(pl.lit([], dtype=pl.List(pl.Int64))),
        pl.col("n_distinct_answers", "first", "second").fill_null(0),
    )
    if rule == "random_path":
        votes = _draw(votes, seed)
    else:
        votes = votes.with_columns(
            voted_answer=pl.col("top_answer"), count=pl.col("first"), rival=pl.col("second")
        )
    every = pl.when((pl.col("n_valid") > 0) & (pl.col("all") > 0)).then(pl.col("all"))
    return votes.with_columns(
        vote_share=pl.col("count") / every,
        margin=(pl.col("count") - pl.col("rival")) / every,
        readable_share=pl.col("n_valid") / pl.col("n_paths"),
        tie=(pl.col("first") > 0) & (pl.col("first") == pl.col("second")),
    ).select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())


def _in_sample_order(paths: pl.DataFrame) -> pl.DataFrame:
    """Paths by question, numbered in order of first appearance, then by sample index, then by path id."""
    rows = paths.select(
        "question_id",
        "drawn_by",
        "path_id",
        pl.col("answer").cast(pl.String),  # a column of nothing but null may have no type
        "text_key",
        pl.col("^weight$"),
        _question_numbers(paths["question_id"]).alias("question"),
        pl.col("sample_index").cast(pl.Int64),
    )
    # One integer that sorts as (question, sample index) does: sorting by it takes a third of the time.
    index = pl.col("sample_index")
    low, high, last = rows.select(
        index.min().alias("low"), index.max().alias("high"), pl.col("question").max()
    ).row(0)
    span = high - low + 1 if rows.height else 1
    key = None
    if span * ((last or 0) + 1) < 2**63:
        key = rows.select(pl.col("question").cast(pl.Int64) * span + (index - low)).to_series()
        if not key.is_sorted():
            order = key.arg_sort()
            rows, key = rows[order], key[order]
    if key is None or (key == key.shift()).any():
        rows = rows.sort("question", "sample_index", "path_id")
    return rows.drop("sample_index").with_row_index("position")


def _question_numbers(ids: pl.Series) -> pl.Series:
    """For each row the number of its question, 0 for the first to appear."""
    runs = ids.rle_id()
    starts = ids.filter((runs != runs.shift()).fill_null(True))
    if starts.n_unique() == starts.len():  # each question's rows stand together, as generation leaves them
        return runs
    numbers = ids.unique(maintain_order=True).to_frame().with_row_index("question")
    return ids.to_frame().join(numbers, on="question_id", how="left", maintain_order="left")["question"]


def _tally(ordered: pl.DataFrame, weight: pl.Expr) -> pl.DataFrame:
    """Each question's answers, most weight first, then by first appearance; none without a vote."""
    return (
        ordered.lazy()
        .filter(pl.col("answer").is_not_null())
        .group_by("question", "answer")
        .agg(pl.len().alias("count"), weight.alias("weight"), pl.col("position").min())
        .sort("question", "weight", "position", descending=[False, True, False])
        .group_by("question", maintain_order=True)
        .agg(
            pl.struct("answer", "count").alias("votes"),
            pl.len().alias("n_distinct_answers"),
            pl.col("answer").first().alias("top_answer"),
            pl.col("weight").alias("weights"),
            pl.col("weight").first().alias("first"),
            pl.col("weight").get(1, null_on_oob=True).alias("second"),
        )
        .collect()
    )


def _draw(votes: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The answer of one valid path a question, its weight, and the most weight of any other answer."""
    # One hash a question, not a path. Polars' own hash is not promised to be the same in its next version,
    # and a draw must be repeatable.
    words = [
        int.from_bytes(hashlib.blake2b(f"{seed}:{question}".encode(), digest_size=8).digest())
        for question in votes["drawn_by"].to_list()
    ]
    valid = pl.when(pl.col("n_valid") > 0).then(pl.col("n_valid").cast(pl.UInt64))
    place = pl.Series(words, dtype=pl.UInt64) % valid
    drawn = votes.with_columns(voted_answer=pl.col("answers").list.drop_nulls().list.get(place))
    answers = drawn.select("question", "voted_answer", "weights", "votes").explode("weights", "votes")
    counts = (
        answers.rename({"weights": "weight"})
        .unnest("votes")
        .filter(pl.col("answer") == pl.col("voted_answer"))
    )
    counts = counts.select("question", pl.col("weight").alias("count"))
    rival = pl.when(pl.col("voted_answer") == pl.col("top_answer")).then("second").otherwise("first")
    return drawn.join(counts, on="question", how="left", maintain_order="left").with_columns(rival=rival)
