"""Whose principle a round of revision follows, and which revisions and helpful responses are learnt from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster import registry
from selfimprove_dagster.families.dialogues.constitution import HOUSEHOLD, choose_principle, load_constitution
from selfimprove_dagster.families.dialogues.revising import Draw, Response, revise
from selfimprove_dagster.lake.records import Activity, Draft, build_records
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.methods.constitutional.constitutional import (
    decide_on_revisions,
    filter_revisions,
    rank,
    revision_candidates,
    revisions_in,
    with_ranks,
)
from selfimprove_dagster.methods.constitutional.tables import CAI_CRITIQUES, CAI_REVISIONS
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.table import Table
from selfimprove_dagster.work.shards import Request

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
        "is_revised": form == "revision" and at < 4,
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
            candidate("not criticised", at=2, is_revised=False),
            candidate("silent before", at=0, is_revised=False, text=""),
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
        **dict.fromkeys(("earlier", "not criticised", "silent before"), "round"),
        "cut off": "finished",
        "silent": "not_empty",
        "again": "duplicate",
        "cut off too": "finished",
    }
    (copy,) = dropped.filter(rule="duplicate").to_dicts()
    assert copy["nearest_id"] == "last"
    early = dropped.filter(rule="round")
    assert early.select("reason", "score", "threshold").rows() == [
        ("of round 3; those of round 4 are learnt", 3, 4),
        ("of round 2, of which there is no revision; those of round 4 are learnt", 2, 4),
        ("of round 0, which says nothing; those of round 4 are learnt", 0, 4),
    ]


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


def test_nothing_follows_an_empty_text() -> None:
    said = {"silent": ["", "never"], "uncriticised": ["oaf", ""], "mute": ["oaf", "rude", ""]}
    said |= {"good": ["oaf", "rude", "friend", "fine", "dear friend"]}
    asked: list[tuple[str, str]] = []

    def drawing(table: Table) -> Draw:
        def draw(requests: Sequence[Request]) -> list[Draft]:
            found = []
            for one in requests:
                prompt = one.key.split()[-1]
                asked.append((one.key, one.prompt))
                place = 2 * one.content["round"] - (table is CAI_CRITIQUES)
                drawn = {"prompt_token_ids": [1], "token_ids": [1], "finish_reason": "stop", "seed": 0}
                text = {"prompt": one.prompt, "text": said[prompt][place], **drawn}
                found.append(Draft({**one.content, **text}, list(one.parents), {"logprobs": [-1.0]}))
            return found

        return draw

    activity = Activity("revisions", {}, "", {}, 0)
    critiques, revisions = revise(
        [Response(f"gen:{prompt}", f"pool:{prompt}", prompt, texts[0]) for prompt, texts in said.items()],
        load_constitution(HOUSEHOLD),
        2,
        (0,),
        load_prompts(registry.method("constitutional").prompts, TEXT),
        drawing(CAI_CRITIQUES),
        drawing(CAI_REVISIONS),
        partial(build_records, CAI_CRITIQUES, activity=activity),
        partial(build_records, CAI_REVISIONS, activity=activity),
    )
    assert critiques.select("prompt_id", "round").rows() == [
        *((f"pool:{prompt}", 1) for prompt in ("uncriticised", "mute", "good")),
        ("pool:good", 2),
    ]
    assert revisions.select("prompt_id", "round", "text").rows() == [
        *(("pool:mute", 1, ""), ("pool:good", 1, "friend"), ("pool:good", 2, "dear friend")),
    ]
    assert [key for key, prompt in asked if "silent" in prompt] == []


def test_which_candidates_are_revised_follows_from_the_revisions() -> None:
    pool = pl.DataFrame(
        [("pool:1", "Who?", "red_team", None)], ["id", "prompt", "kind", "response"], orient="row"
    ).with_columns(pl.col("response").cast(pl.String))
    drawn = {"prompt_id": ["pool:1"], "text": ["oaf"], "finish_reason": ["stop"]}
    first = pl.DataFrame({"id": ["gen:1"], **drawn})
    revisions = pl.DataFrame({"id": ["rev:1"], **drawn, "revises_id": ["gen:1"], "round": [1]})
    revisions = revisions.with_columns(pl.col("round").cast(pl.Int32))
    candidates = revision_candidates(pool, first, revisions, human_responses=True)
    assert dict(candidates.select("candidate_id", "is_revised").iter_rows()) == {
        "gen:1": True,
        "rev:1": False,
    }
