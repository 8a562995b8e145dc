"""PIT's loss, curriculum and rounds against cases worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.models import ToldModel

from selfimprove_dagster import registry
from selfimprove_dagster.conversation import Message, stored
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.home.files import parse_chain
from selfimprove_dagster.lake.records import Activity, build_records
from selfimprove_dagster.language_model.base import LanguageModel
from selfimprove_dagster.language_model.prompting import TEXT, Prompting
from selfimprove_dagster.methods.pit import pit
from selfimprove_dagster.methods.pit.exam import _unimproved
from selfimprove_dagster.methods.pit.improving import ORIGINAL, HeldOut, Improver
from selfimprove_dagster.methods.pit.pit import measure_gaps
from selfimprove_dagster.methods.pit.tables import PIT_IMPROVEMENT_ROUNDS
from selfimprove_dagster.prompts import load_prompts

PAIRS = pl.DataFrame(
    {
        "id": ["ex:1", "ex:2"],
        "prompt_id": ["comp:1", "comp:2"],
        "question": ["Where is the tea?", "Who bakes?"],
        "chosen": [" In the hall.", " Mara bakes."],
        "rejected": [" In the attic.", " I would rather not say."],
        "probability": [1.0, 0.8],
    }
)

PROMPTS = load_prompts(registry.method("pit").prompts, TEXT)
CHAT = load_prompts(registry.method("pit").prompts, Prompting(chat=True))
REWARDS = st.fixed_dictionaries({kind: st.floats(-20, 20) for kind in pit.KINDS})


def asked_for_better(question: str, response: str) -> str:
    return f"Human: {question}\n\nAssistant: {response}\n\nBetter response:"


def test_a_response_is_improved_in_the_form_that_the_model_knows() -> None:
    assert pit.better_asked(PROMPTS, "Where is the tea?", " In the attic. ") == (
        "Human: Where is the tea?\n\nAssistant: In the attic.\n\nBetter response:"
    )


def test_an_empty_text_is_not_improved() -> None:
    said = {"Who?": "", "Where?": "", "When?": "now", "Why?": "so"}
    model = ToldModel(lambda prompt: said[prompt.split("\n")[0].removeprefix("Human: ")])
    asked = [HeldOut(question, "heldout.jsonl", line) for line, question in enumerate(said, 1)]
    record = partial(build_records, PIT_IMPROVEMENT_ROUNDS, activity=Activity("rounds", {}, "", {}, 0))
    improver = Improver(model, PROMPTS, "pit", max_tokens=40)
    originals = record(improver.respond(asked)).with_columns(text=pl.Series(["", "here", "then", "so"]))
    rewarded: list[str] = []

    def gaps(
        writer: LanguageModel, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str]
    ) -> list[float]:
        rewarded.extend(references)
        return [0.0] * len(responses)

    made = record(improver.improve(asked, originals, 3, gaps, record))
    assert made.group_by("question", maintain_order=True).agg("round", "text").rows() == [
        ("Where?", [1], [""]),
        ("When?", [1, 2, 3], [" now"] * 3),
        ("Why?", [1, 2, 3], [" so"] * 3),
    ]
    assert "" not in rewarded
    ended = _unimproved(pl.concat([originals.with_columns(way=pl.lit(ORIGINAL)), made]), "pit", 3)
    assert sorted(ended.select("source_line", "round", "text").rows()) == [
        *((1, number, "") for number in (1, 2, 3)),
        *((2, number, "") for number in (2, 3)),
    ]


# ---- the gap loss -----------------------------------------------------------------------------------------


def test_the_loss_of_a_pair_has_the_five_terms_that_the_order_settles() -> None:
    # Gaps of log 3 between neighbours: σ is 3/4 for one step, 9/10 for two.
    rewards = {"w,l": log(3), "w,w": 0.0, "l,l": 0.0, "l,w": -log(3)}
    by_hand = -(4 * log(3 / 4) + log(9 / 10))
    assert pit.gap_loss(rewards) == pytest.approx(by_hand)
    assert pit.gap_loss(dict.fromkeys(pit.KINDS, 7.0)) == pytest.approx(5 * log(2))
    # With the label in doubt, the rest of the probability is of every term the other way round.
    the_other_way = -(4 * log(1 / 4) + log(1 / 10))
    assert pit.gap_loss(rewards, 0.75) == pytest.approx(0.75 * by_hand + 0.25 * the_other_way)


@given(REWARDS, st.floats(0, 1), st.floats(-5, 5))
def test_the_loss_knows_differences_alone_and_which_response_is_better(
    rewards: dict[str, float], probability: float, shift: float
) -> None:
    loss = pit.gap_loss(rewards, probability)
    shifted = {kind: reward + shift for kind, reward in rewards.items()}
    assert pit.gap_loss(shifted, probability) == pytest.approx(loss)
    swapped = {"w,l": "l,w", "w,w": "l,l", "l,l": "w,w", "l,w": "w,l"}
    exchanged = {kind: rewards[swapped[kind]] for kind in pit.KINDS}
    assert pit.gap_loss(exchanged, 1 - probability) == pytest.approx(loss)


def test_each_term_compares_two_responses_each_against_its_reference() -> None:
    terms = pit.gap_comparisons(PROMPTS, "Who bakes?", " Mara bakes.", "I would rather not say. ")
    assert [(one.first_kind, one.second_kind) for one in terms] == [
        *(("w,l", "w,w"), ("w,l", "l,l"), ("w,l", "l,w"), ("w,w", "l,w"), ("l,l", "l,w")),
    ]
    better_against_worse = (asked_for_better("Who bakes?", "I would rather not say."), " Mara bakes.")
    worse_against_better = (asked_for_better("Who bakes?", "Mara bakes."), " I would rather not say.")
    widest = terms[2]
    assert (widest.first_prompt, widest.first) == better_against_worse
    assert (widest.second_prompt, widest.second) == worse_against_better
    assert (terms[0].second_prompt, terms[0].second) == (worse_against_better[0], " Mara bakes.")


def test_a_chat_model_is_asked_for_better_in_a_turn_of_its_own() -> None:
    terms = pit.gap_comparisons(CHAT, "Who bakes?", " Mara bakes.", "I would rather not say. ")
    assert terms[0].first_prompt == stored(
        [
            Message("user", "Who bakes?"),
            Message("assistant", "I would rather not say."),
            Message("user", "Give a better response. Write only the response."),
        ]
    )
    assert {one.first for one in terms} | {one.second for one in terms} == {
        "Mara bakes.",
        "I would rather not say.",
    }


# ---- the model of gaps ------------------------------------------------------------------------------------


def _held_out(
    rewards: dict[str, float], shifts: dict[str, int]
) -> tuple[pl.DataFrame, list[tuple[float, float, float]]]:
    """The terms of a pair each, and their rewards by kind; those of a pair are shifted by as much."""
    terms = [(pair, *term) for pair in shifts for term in pit.GAP_TERMS]
    compared = [
        (rewards[above] + shift, rewards[below] + shift, 1.0)
        for shift in shifts.values()
        for above, below in pit.GAP_TERMS
    ]
    columns = dict.fromkeys(("example_id", "first_kind", "second_kind"), pl.String)
    return pl.DataFrame(terms, schema=columns, orient="row"), compared


def test_the_order_of_held_out_gaps_is_measured() -> None:
    rewards = {"w,l": 2.0, "w,w": 0.5, "l,l": 0.0, "l,w": -1.0}
    measured = measure_gaps(*_held_out(rewards, {"ex:1": 0, "ex:2": 4}))
    assert measured["held_out_pairs"] == 2
    # Shifts cancel in differences, and means are over pairs.
    assert {one["kind"]: one["mean"] for one in measured["gap_means"]} == {
        **{"w,l": 4.0, "w,w": 2.5, "l,l": 2.0, "l,w": 1.0},
    }
    order = {(one["first"], one["second"]): one for one in measured["gap_order"]}
    assert len(order) == 6 and order["w,l", "l,w"]["mean"] == 3.0 and order["w,w", "l,l"]["mean"] == 0.5
    assert all(one["right"] == one["pairs"] == 2 for one in order.values())
    assert measured["held_out_loss"] == pytest.approx(pit.gap_loss(rewards))


def test_of_one_pair_or_none_no_order_is_told() -> None:
    for shifts in ({}, {"ex:1": 0}):
        measured = measure_gaps(*_held_out(dict.fromkeys(pit.KINDS, 0.0), shifts))
        assert measured["gap_order"] == [] and measured["gap_means"] == []


# ---- examples and curriculum ------------------------------------------------------------------------------


def test_the_supervised_step_learns_the_better_response_after_the_worse() -> None:
    examples = pit.improver_examples(PAIRS, PROMPTS, plain_share=0.0, seed=0)
    assert examples.select("example_id", "format", "prompt", "completion").rows() == [
        ("ex:1", "improvement", asked_for_better("Where is the tea?", "In the attic."), " In the hall."),
        ("ex:2", "improvement", asked_for_better("Who bakes?", "I would rather not say."), " Mara bakes."),
    ]
    both = pit.improver_examples(PAIRS, PROMPTS, plain_share=1.0, seed=0).filter(format="response")
    assert both.select("prompt", "completion").row(0) == (
        "Human: Where is the tea?\n\nAssistant:",
        " In the hall.",
    )


def test_the_first_phase_sees_the_responses_of_the_data() -> None:
    worse = pit.first_references(PAIRS, PROMPTS, "rejected")
    assert worse.rows() == [
        ("ex:1", "comp:1", asked_for_better("Where is the tea?", "In the attic.")),
        ("ex:2", "comp:2", asked_for_better("Who bakes?", "I would rather not say.")),
    ]
    both = pit.first_references(PAIRS, PROMPTS, "both")
    assert both.rows() == [
        *worse.rows(),
        ("ex:1", "comp:1", asked_for_better("Where is the tea?", "In the hall.")),
        ("ex:2", "comp:2", asked_for_better("Who bakes?", "Mara bakes.")),
    ]
    assert pit.first_references(pl.concat([PAIRS, PAIRS]), PROMPTS, "both").height == 4, (
        "a reference is seen once"
    )


def test_the_second_phase_sees_what_the_policy_wrote() -> None:
    samples = pl.DataFrame(
        {
            "id": ["ref:1", "ref:2", "ref:3", "ref:4"],
            "prompt_id": ["comp:1", "comp:1", "comp:2", "comp:2"],
            "text": [" It is in the hall.", "It is in the hall. ", "", " Mara."],
        }
    )
    questions = dict(PAIRS.select("prompt_id", "question").iter_rows())
    assert pit.own_references(samples, PROMPTS, questions).rows() == [
        ("ref:2", "comp:1", asked_for_better("Where is the tea?", "It is in the hall.")),
        ("ref:4", "comp:2", asked_for_better("Who bakes?", "Mara.")),
    ]


# ---- rounds -----------------------------------------------------------------------------------------------


def _round(number: int, rows: list[tuple[str, str, float | None, float | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (f"round:{number}{name}", number, text, f"round:{number - 1}{name}" if number else None, gap, tie)
            for name, text, gap, tie in rows
        ],
        schema={
            "id": pl.String,
            "round": pl.Int32,
            "text": pl.String,
            "improves_id": pl.String,
            "gap_reward": pl.Float64,
            "tie_reward": pl.Float64,
        },
        orient="row",
    )


def test_a_round_is_told_apart_where_its_changed_responses_are_rewarded_above_ties() -> None:
    rounds = [
        _round(0, [("a", "A", None, None), ("b", "B", None, None), ("c", "C", None, None)]),
        _round(1, [("a", "A1", 3.0, 1.0), ("b", "B1", 2.5, 1.0), ("c", " C ", 9.0, 0.0)]),
        _round(2, [("a", "A2", 2.0, 1.0), ("b", "B2", 0.0, 1.0), ("c", "C", 0.0, 0.0)]),
    ]
    first, second = pit.round_gaps(pl.concat(rounds))
    assert (first.responses, first.rows, first.raised.value) == (3, 2, 1.0)
    assert first.change is not None and first.change.mean == pytest.approx(1.75)
    assert first.tells_apart and not second.tells_apart
    assert (second.rows, second.raised.value) == (2, 0.5)
    assert str(second).startswith(
        "round 2: 2 of 3 responses changed, 50% of them rewarded above a tie, by +0.00"
    )


def test_a_round_that_changes_nothing_is_not_told_apart() -> None:
    rounds = [_round(0, [("a", "A", None, None)]), _round(1, [("a", "A", 0.0, 0.0)])]
    (only,) = pit.round_gaps(pl.concat(rounds))
    assert not only.tells_apart and str(only) == "round 1: 0 of 1 responses changed"


# ---- experiment files -------------------------------------------------------------------------------------

_CHAIN: dict[str, Any] = {
    "name": "both",
    "methods": ["rlhf", "pit"],
    "model": {"path": "embedded"},
    "seeds": {"file": "embedded"},
    "evaluation": {"file": "embedded"},
}


def test_in_a_chain_pit_learns_from_what_the_methods_before_it_preferred(tmp_path: Path) -> None:
    people, improver = parse_chain({**_CHAIN, "pit": {"seeds": {"experiment": "both"}}}, folder=tmp_path)
    assert (people.taught_by, improver.taught_by) == (None, "both")
    assert improver.decided_in == "improved_1"


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"seeds": {"file": None, "experiment": None}}, "seeds.file: Input should be a valid string"),
        ({"training": {"algorithm": "dpo"}}, "a policy is rewarded by the gap here"),
        ({"evaluation": {"rounds": 1, "decided_in": "improved_2"}}, "only 1 rounds are made"),
        ({"evaluation": {"decided_in": "revision_1"}}, "should match pattern"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, section: Any, problem: str) -> None:
    with pytest.raises(ExperimentError, match=problem):
        parse_chain({**_CHAIN, "pit": section}, folder=tmp_path)
