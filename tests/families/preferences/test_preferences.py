"""Which pairs of responses are learnt from, which response is chosen, and what is held out."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.families.preferences.filters import (
    compared_candidates,
    filter_preferences,
    hard,
    judged_candidates,
    oriented,
    split_held_out,
)


def pair(name: str, probability: float | None = 0.9, **columns: Any) -> dict[str, Any]:
    return {
        "candidate_id": name,
        "prompt_id": f"prompt of {name}",
        "prompt": "Where is the key?",
        "first": "Under the mat.",
        "second": "I keep that to myself.",
        "first_id": f"{name}/1",
        "second_id": f"{name}/2",
        "first_finish_reason": "stop",
        "second_finish_reason": "stop",
        "probability": probability,
        "problem": None,
        **columns,
    }


def rules(decisions: pl.DataFrame) -> dict[str, str]:
    """The rule that dropped each candidate that was dropped."""
    return dict(decisions.filter(~pl.col("kept")).select("candidate_id", "rule").iter_rows())


def test_each_rule_drops_what_it_names_and_says_why() -> None:
    candidates = pl.DataFrame(
        [
            pair("fine"),
            pair("silent", second=" \n"),
            pair("cut off", first_finish_reason="length"),
            pair("alike", second=" Under the mat. "),
            pair("unsure", 0.59),
            pair("sure of the second", 0.1),
        ]
    )
    kept, decisions = filter_preferences(candidates, minimum_margin=0.2)
    assert kept["candidate_id"].to_list() == ["fine", "sure of the second"]
    assert rules(decisions) == {
        "silent": "empty",
        "cut off": "unfinished",
        "alike": "equal",
        "unsure": "margin",
    }
    reasons = dict(decisions.filter(~pl.col("kept")).select("rule", "reason").iter_rows())
    assert reasons["margin"] == "margin 0.18 against at least 0.2"
    assert reasons["equal"] == "both responses are the same text"
    (margin,) = decisions.filter(candidate_id="unsure", rule="margin").to_dicts()
    assert (margin["score"], margin["threshold"]) == (pytest.approx(0.18), 0.2)


def test_a_pair_that_could_not_be_judged_is_dropped_with_the_problem() -> None:
    candidates = pl.DataFrame([pair("unjudged", None, problem="too_long: 1,200 tokens"), pair("fine")])
    kept, decisions = filter_preferences(candidates, minimum_margin=0.0)
    assert kept["candidate_id"].to_list() == ["fine"]
    (dropped,) = decisions.filter(~pl.col("kept")).to_dicts()
    assert (dropped["rule"], dropped["reason"]) == (
        "margin",
        "the pair could not be judged: too_long: 1,200 tokens",
    )


def test_a_margin_at_the_threshold_is_kept_whatever_the_rounding() -> None:
    candidates = pl.DataFrame([pair("first", 0.6), pair("second", 0.4)])
    assert filter_preferences(candidates, 0.2)[0].height == 2


@given(st.lists(st.floats(0, 1), max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_margin_keeps_no_pair_more(probabilities: list[float], one: float, other: float) -> None:
    rows = [pair(str(at), probability) for at, probability in enumerate(probabilities)]
    candidates = pl.DataFrame(rows, schema=pl.DataFrame([pair("")]).schema)
    loose, strict = (
        set(filter_preferences(candidates, margin)[0]["candidate_id"]) for margin in sorted([one, other])
    )
    assert strict <= loose
    kept, decisions = filter_preferences(candidates, one)
    assert set(decisions["candidate_id"]) == set(candidates["candidate_id"])
    chosen = oriented(kept)
    assert chosen["probability"].is_between(0.5, 1).all()
    assert (2 * chosen["probability"] - 1 >= one - 1e-6).all()


def test_the_likelier_response_is_chosen_and_of_a_tie_the_first() -> None:
    candidates = pl.DataFrame([pair("a", 0.9), pair("b", 0.2), pair("c", 0.5)])
    chosen = oriented(candidates)
    assert chosen["chosen_id"].to_list() == ["a/1", "b/2", "c/1"]
    assert chosen["rejected_id"].to_list() == ["a/2", "b/1", "c/2"]
    assert chosen["chosen"].to_list() == ["Under the mat.", "I keep that to myself.", "Under the mat."]
    assert chosen["probability"].to_list() == [0.9, 0.8, 0.5]
    assert [hard(probability) for probability in (0.49, 0.5, 1.0)] == [0.0, 0.5, 1.0]


def test_a_tie_has_no_hard_label() -> None:
    both_orders = (0.9 + (1 - 0.9)) / 2, (0.1 + 0.2 + (1 - 0.3)) / 2  # 0.5, the second but for rounding
    tied = [pair(f"tied {number}", one) for number, one in enumerate(both_orders)]
    candidates = pl.DataFrame([pair("first", 0.51), *tied, pair("second", 0.49)])
    kept, decisions = filter_preferences(candidates, 0.0, hard_labels=True)
    assert kept["candidate_id"].to_list() == ["first", "second"]
    assert rules(decisions) == {"tied 0": "tie", "tied 1": "tie"}
    assert set(decisions.filter(rule="tie", kept=False)["reason"]) == {
        "neither response is preferred, so there is no hard label"
    }
    assert [hard(one) for one in oriented(kept)["probability"]] == [1.0, 1.0]
    soft, decisions = filter_preferences(candidates, 0.0)
    assert soft.height == 4 and "tie" not in set(decisions["rule"])


def test_candidates_of_a_judge_know_how_their_responses_ended() -> None:
    preferences = pl.DataFrame(
        {
            "id": ["pref:1"],
            "prompt_id": ["prompt:1"],
            "prompt": ["?"],
            "response_ids": [["gen:2", "gen:1"]],
            "first": ["two"],
            "second": ["one"],
            "probability": [0.7],
        }
    )
    responses = pl.DataFrame({"id": ["gen:1", "gen:2"], "finish_reason": ["length", "stop"]})
    (row,) = judged_candidates(preferences, responses).to_dicts()
    assert (row["candidate_id"], row["first_id"], row["second_id"]) == ("pref:1", "gen:2", "gen:1")
    assert (row["first_finish_reason"], row["second_finish_reason"]) == ("stop", "length")


def test_what_people_compared_goes_through_the_same_rules() -> None:
    compared = pl.DataFrame(
        {
            "id": ["comp:1", "comp:2", "comp:3"],
            "prompt": ["?"] * 3,
            "chosen": ["yes", "yes", ""],
            "rejected": ["no", "yes", "no"],
        }
    )
    candidates = compared_candidates(compared)
    assert set(candidates.columns) == set(pair(""))
    kept, decisions = filter_preferences(candidates, 0.0)
    assert rules(decisions) == {"comp:2": "equal", "comp:3": "empty"}
    (chosen,) = oriented(kept).to_dicts()
    assert (chosen["chosen"], chosen["rejected"], chosen["probability"]) == ("yes", "no", 1.0)


@given(st.lists(st.text(max_size=5), max_size=40), st.floats(0, 0.99), st.integers(0, 2**31))
def test_all_pairs_of_a_prompt_fall_on_one_side(prompts: list[str], share: float, seed: int) -> None:
    sides = dict(zip(prompts, split_held_out(prompts, share, seed), strict=True))
    assert split_held_out(prompts, share, seed) == [sides[prompt] for prompt in prompts]
    assert split_held_out(prompts[::-1], share, seed) == [sides[prompt] for prompt in prompts[::-1]]
    assert not any(split_held_out(prompts, 0.0, seed))


def test_the_share_held_out_is_about_what_was_asked_for() -> None:
    held_out = split_held_out([f"prompt {number}" for number in range(2_000)], 0.1, seed=1)
    assert 150 < sum(held_out) < 250
