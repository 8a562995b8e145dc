"""Whose principle a round of revision follows, and which revisions and helpful responses are learnt from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.families.dialogues.constitution import choose_principle
from selfimprove_dagster.methods.constitutional.constitutional import (
    decide_on_revisions,
    filter_revisions,
    rank,
    revisions_in,
    with_ranks,
)

NAMES = [f"principle {number}" for number in range(16)]


def candidate(name: str, form: str = "revision", at: int = 4, **columns: Any) -> dict[str, Any]:
    return {
        "candidate_id": name,
        "prompt_id": "prompt:1",
        "prompt": f"What of {name}?",
        "kind": "red_team" if form == "revision" else "helpful",
        "text": f" About {name}.",
        "finish_reason": "stop",
        "round": at if form == "revision" else 0,
        "format": form,
        **columns,
    }


SCHEMA = pl.DataFrame([candidate("")]).schema


def test_each_round_draws_anew_and_every_principle_is_as_likely() -> None:
    drawn = [choose_principle(NAMES, 7, f"prompt {at}", turn) for at in range(400) for turn in range(4)]
    counts = Counter(drawn)
    assert set(counts) == set(NAMES)
    assert max(counts.values()) < 2 * min(counts.values())
    assert len({choose_principle(NAMES, 7, "prompt 1", turn) for turn in range(40)}) > 8


@given(st.permutations(NAMES), st.integers(0, 2**31), st.integers(1, 32))
def test_the_principle_follows_from_names_not_from_their_order(
    shuffled: list[str], seed: int, turn: int
) -> None:
    assert choose_principle(shuffled, seed, "p", turn) == choose_principle(NAMES, seed, "p", turn)


def test_each_rule_drops_what_it_names_and_says_why() -> None:
    candidates = pl.DataFrame(
        [
            candidate("last"),
            candidate("earlier", at=3),
            candidate("cut off", finish_reason="length"),
            candidate("silent", text=" "),
            candidate("again", prompt="What of last?", text="About last. "),
            candidate("by a person", "helpful", finish_reason=None),
            candidate("cut off too", "helpful", finish_reason="length"),
        ]
    )
    kept, decisions = filter_revisions(candidates, chosen_round=4, helpful_share=0.5, seed=0)
    assert kept["candidate_id"].to_list() == ["last", "by a person"]
    dropped = decisions.filter(~pl.col("kept"))
    assert dict(dropped.select("candidate_id", "rule").iter_rows()) == {
        "earlier": "round",
        "cut off": "finished",
        "silent": "not_empty",
        "again": "duplicate",
        "cut off too": "finished",
    }
    (copy,) = dropped.filter(rule="duplicate").to_dicts()
    assert copy["nearest_id"] == "last"
    (early,) = dropped.filter(rule="round").to_dicts()
    assert (early["reason"], early["score"], early["threshold"]) == (
        *("of round 3; those of round 4 are learnt", 3, 4),
    )


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (0.2, 5), (0.5, 20), (0.6, 30), (0.9, 30)])
def test_helpful_responses_are_at_most_their_share(share: float, expected: int) -> None:
    rows = [candidate(f"r{at}") for at in range(20)] + [candidate(f"h{at}", "helpful") for at in range(30)]
    kept, decisions = filter_revisions(pl.DataFrame(rows), chosen_round=4, helpful_share=share, seed=5)
    assert kept.filter(format="revision").height == 20
    assert kept.filter(format="helpful").height == expected
    said = decisions.filter(rule="helpful_share", candidate_id="h0")["reason"].item()
    assert "of the helpful responses by lot" in said
    assert "beside 20 revisions" in said


ROWS = st.lists(
    st.tuples(st.sampled_from(["revision", "helpful"]), st.integers(0, 2), st.sampled_from("xyz ")),
    max_size=30,
)


@given(ROWS, st.integers(0, 2), st.floats(0, 0.95), st.integers(0, 2**31))
def test_every_candidate_is_decided_on_and_the_share_holds(
    rows: list[tuple[str, int, str]], turn: int, share: float, seed: int
) -> None:
    candidates = pl.DataFrame(
        [
            candidate(str(number), form, at, text=text, prompt=f"{form} prompt {number % 5}")
            for number, (form, at, text) in enumerate(rows)
        ],
        schema=SCHEMA,
    )
    kept, decisions = filter_revisions(candidates, chosen_round=turn, helpful_share=share, seed=seed)
    assert set(decisions["candidate_id"]) == set(candidates["candidate_id"])
    dropped = decisions.filter(~pl.col("kept"))["candidate_id"]
    assert set(dropped) == set(candidates["candidate_id"]) - set(kept["candidate_id"])
    assert dropped.n_unique() == dropped.len()
    assert kept.filter(format="helpful").height <= share * kept.height + 1e-6
    assert kept.select("prompt", "text").n_unique() == kept.height
    assert decisions["reason"].null_count() == 0
    again = filter_revisions(
        candidates.sample(fraction=1, shuffle=True, seed=1),
        chosen_round=turn,
        helpful_share=share,
        seed=seed,
    )[0]
    assert (
        again.select("prompt", "text")
        .sort("prompt", "text")
        .equals(kept.select("prompt", "text").sort("prompt", "text"))
    )


@given(ROWS, st.integers(1, 7))
def test_parts_of_the_candidates_are_decided_on_as_all_of_them(
    rows: list[tuple[str, int, str]], size: int
) -> None:
    candidates = pl.DataFrame(
        [
            candidate(str(number), form, at, text=text, prompt=f"{form} prompt {number % 5}")
            for number, (form, at, text) in enumerate(rows)
        ],
        schema=SCHEMA,
    )
    kept, decisions = filter_revisions(candidates, chosen_round=1, helpful_share=0.5, seed=3)
    ranks = rank(candidates.lazy(), chosen_round=1, seed=3)
    parts = [
        decide_on_revisions(part, chosen_round=1, helpful_share=0.5, revisions=revisions_in(ranks))
        for part in with_ranks(candidates.lazy(), ranks).collect().iter_slices(size)
    ]
    assert pl.concat([kept.clear(), *(part for part, _ in parts)]).equals(kept)
    in_parts = pl.concat([decisions.clear(), *(part for _, part in parts)])
    assert in_parts.sort("candidate_id", "rule").equals(decisions.sort("candidate_id", "rule"))
