"""The tables of scores by which filters judge the examples of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from selfimprove_dagster import words
from selfimprove_dagster.column_sources import each, new
from selfimprove_dagster.quality.completions import PERPLEXITY_RANGE, RATING_RANGE
from selfimprove_dagster.table import PROBLEM, TEXT, Row, Source, Table


def example_perplexities(method: str, candidates: Sequence[Source], said: Sequence[Source]) -> Table:
    """How probable the model finds each example after its prompt; parent: what it was made of.

    `candidates` are the columns with the ids that decisions name, `said` those of prompt and answer. Empty if no filter
    reads it.
    """
    return Table(
        f"{method}/example_perplexities",
        "exppl",
        noun="perplexity of an example",
        sentence=words.example_perplexity,
        content={"candidate_id": TEXT, "tokens": pl.Int32},
        measures={"mean_logprob": pl.Float64, "perplexity": pl.Float64, **PROBLEM},
        sources={
            **each(candidates, "parents", "candidate_id"),
            **each(said, "tokens", "mean_logprob", "perplexity", "problem"),
        },
        checks=(PERPLEXITY_RANGE,),
    )


def example_ratings(method: str, candidates: Sequence[Source], said: Sequence[Source]) -> Table:
    """The judge's expected rating of each example from 1 to 10; parent: what it was made of.

    The arguments are those of `example_perplexities`. Empty if no filter reads it.
    """
    return Table(
        f"{method}/example_ratings",
        "exrat",
        noun="rating of an example",
        sentence=words.rating,
        content={"candidate_id": TEXT, "asked": TEXT},
        measures={"rating": pl.Float64, **PROBLEM},
        sources={
            **each(candidates, "parents", "candidate_id"),
            **each(said, "rating", "problem"),
            **new("asked"),
        },
        checks=(RATING_RANGE,),
    )


def score(row: Row) -> float | None:
    """Return the number of a row of scores."""
    found: float | None = next((row[name] for name in ("perplexity", "rating") if name in row), None)
    return found
