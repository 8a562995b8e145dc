"""Filters: one decision for every candidate at every rule it reaches, and nothing lost between them."""

from __future__ import annotations

import math
import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.filters.rules import (
    DECISION_COLUMNS,
    Filter,
    agrees_with_vote,
    apply_filters,
    at_most_per_question,
    drop_duplicates,
    perplexity_at_most,
    perplexity_of,
    vote_share_at_least,
    votes_at_least,
)

SCHEMA = {
    "candidate_id": pl.String,
    "question_id": pl.String,
    "question": pl.String,
    "text_key": pl.String,
    "answer": pl.String,
    "voted_answer": pl.String,
    "vote_share": pl.Float64,
    "n_valid": pl.UInt32,
    "perplexity": pl.Float64,
}


def candidates(*rows: dict[str, Any]) -> pl.DataFrame:
    """Candidates that pass every filter, except where a row says otherwise."""
    good = {
        "question_id": "q:1",
        "answer": "4",
        "voted_answer": "4",
        "vote_share": 0.75,
        "n_valid": 8,
        "perplexity": 2.0,
    }
    full = [
        {"candidate_id": f"gen:{n}", "text_key": f"text {n}", **good, **row} for n, row in enumerate(rows)
    ]
    for row in full:
        row["question"] = f"What is {row['question_id']}?"
    return pl.DataFrame(full, schema=SCHEMA)


SOME_CANDIDATES = st.lists(
    st.fixed_dictionaries(
        {
            "question_id": st.sampled_from(["q:1", "q:2", "q:3"]),
            "text_key": st.sampled_from(["a", "b", "c", "", "\n", "é"]),
            "answer": st.sampled_from(["4", "5", None]),
            "voted_answer": st.sampled_from(["4", "5", None]),
            "vote_share": st.sampled_from([0.25, 0.5, 1.0, None]),
            "n_valid": st.integers(0, 10),
            "perplexity": st.sampled_from([1.0, 2.0, 50.0, math.inf, math.nan, None]),
        }
    ),
    max_size=25,
).map(lambda rows: candidates(*rows))

CHAIN: list[Filter] = [
    agrees_with_vote,
    vote_share_at_least(0.5),
    votes_at_least(2),
    perplexity_at_most(10.0),
    drop_duplicates,
    at_most_per_question(2, seed=3),
]
RULES = ["agrees_with_vote", "vote_share", "valid_votes", "perplexity", "duplicate", "paths_per_question"]


@given(everything=SOME_CANDIDATES)
def test_every_candidate_is_decided_at_every_rule_it_reaches(everything: pl.DataFrame) -> None:
    kept, decisions = apply_filters(everything, CHAIN)
    assert decisions.schema == pl.Schema(DECISION_COLUMNS)
    assert decisions.null_count().select("candidate_id", "rule", "kept", "reason").row(0) == (0, 0, 0, 0)
    reached = everything["candidate_id"].to_list()
    for rule in RULES:
        verdicts = decisions.filter(rule=rule)
        assert verdicts["candidate_id"].to_list() == reached, rule
        reached = verdicts.filter("kept")["candidate_id"].to_list()
    assert kept["candidate_id"].to_list() == reached
    assert kept.equals(everything.filter(pl.col("candidate_id").is_in(reached))), "rows and order are kept"
    dropped = decisions.filter(~pl.col("kept"))["candidate_id"].to_list()
    assert sorted(reached + dropped) == sorted(everything["candidate_id"])


@given(everything=SOME_CANDIDATES, order=st.randoms(use_true_random=False))
def test_what_is_kept_does_not_depend_on_the_order_of_rows(
    everything: pl.DataFrame, order: random.Random
) -> None:
    """Of equal texts the first stands; which texts stand is the same in any order."""
    rows = list(range(len(everything)))
    order.shuffle(rows)
    columns = ["question_id", "text_key"]
    one = apply_filters(everything, CHAIN)[0].select(columns)
    other = apply_filters(everything[rows], CHAIN)[0].select(columns)
    assert sorted(one.rows()) == sorted(other.rows())


def test_no_filters_keep_everything() -> None:
    kept, decisions = apply_filters(candidates({}, {}), [])
    assert (len(kept), len(decisions)) == (2, 0)


def verdicts(rule: Filter, *rows: dict[str, Any]) -> list[tuple[bool, str]]:
    return rule(candidates(*rows)).select("kept", "reason").rows()


def test_agreement_with_the_vote() -> None:
    assert verdicts(agrees_with_vote, {}, {"answer": "5"}, {"answer": None}, {"voted_answer": None}) == [
        (True, "answers 4, as the vote does"),
        (False, "answers 5; the vote is 4"),
        (False, "states no answer that can be read"),
        (False, "nothing to decide it by: a value is missing"),
    ]


@pytest.mark.parametrize(
    ("rule", "column", "inside", "outside"),
    [
        (vote_share_at_least(0.5), "vote_share", 0.5, 0.4999),
        (votes_at_least(3), "n_valid", 3, 2),
        (perplexity_at_most(8.0), "perplexity", 8.0, 8.0001),
    ],
)
def test_a_threshold_keeps_what_lies_on_it(rule: Filter, column: str, inside: float, outside: float) -> None:
    decided = rule(candidates({column: inside}, {column: outside}, {column: None}))
    assert decided["kept"].to_list() == [True, False, False]
    assert decided["score"].to_list() == [inside, outside, None]
    assert decided["threshold"].n_unique() == 1


def test_a_perplexity_that_is_no_number_is_dropped() -> None:
    decided = perplexity_at_most(8.0)(candidates({"perplexity": math.nan}, {"perplexity": math.inf}))
    assert decided["kept"].to_list() == [False, False]


def test_of_equal_texts_of_a_question_the_first_is_kept_and_named() -> None:
    same = {"text_key": "same"}
    decided = drop_duplicates(candidates(same, {}, same, {**same, "question_id": "q:2"}))
    assert decided.select("kept", "nearest_id").rows() == [
        (True, None),
        (True, None),
        (False, "gen:0"),
        (True, None),
    ]
    assert decided["reason"][2] == "the same text as gen:0"


def test_no_question_fills_the_dataset() -> None:
    rows = [{"question_id": f"q:{n % 2}"} for n in range(20)]
    kept, _ = apply_filters(candidates(*rows), [at_most_per_question(3, seed=0)])
    assert kept["question_id"].value_counts().sort("question_id").rows() == [("q:0", 3), ("q:1", 3)]
    other, _ = apply_filters(candidates(*rows), [at_most_per_question(3, seed=1)])
    assert set(kept["candidate_id"]) != set(other["candidate_id"]), "another seed draws other lots"


def test_perplexity_is_the_exponential_of_the_mean_surprise() -> None:
    frame = pl.DataFrame(
        {"logprobs": [[math.log(0.5)] * 3, [], [0.0, -2.0]]}, schema={"logprobs": pl.List(pl.Float32)}
    )
    measured = frame.select(**perplexity_of(pl.col("logprobs")))
    assert measured["tokens"].to_list() == [3, 0, 2]
    assert measured["perplexity"].to_list() == pytest.approx([2.0, 1.0, math.e])
    assert measured["mean_logprob"].to_list() == pytest.approx([math.log(0.5), 0.0, -1.0])
