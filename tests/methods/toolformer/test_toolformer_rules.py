"""Positions, losses and rules of Toolformer against cases worked out by hand, and a float64 reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove_dagster.filters.rules import DECISION_COLUMNS
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.toolformer import rules
from selfimprove_dagster.methods.toolformer.loss import (
    PAPER_SAMPLING,
    WEIGHTS,
    WINDOW,
    Losses,
    choose_positions,
    loss_weights,
    prefixes,
    weighted_loss,
)
from selfimprove_dagster.tools.calls import Call

# --- positions ---


def test_the_likeliest_positions_above_the_threshold_are_kept() -> None:
    probabilities = [0.04, 0.2, 0.05, 0.9, 0.051, 0.2, 0.3]
    assert choose_positions(probabilities, 5, 0.05) == [1, 3, 4, 5, 6]
    assert choose_positions(probabilities, 2, 0.05) == [3, 6]
    assert choose_positions(probabilities, 3, 0.05) == [1, 3, 6]  # of two equal ones the earlier
    assert choose_positions(probabilities, 20, 0.0) == list(range(7))
    assert choose_positions([0.0, 0.0], 20, 0.0) == []  # above, not at, the threshold
    assert choose_positions([], 5, 0.05) == [] == choose_positions(probabilities, 0, 0.05)


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.1, -3.2])
def test_logarithms_are_not_taken_for_probabilities(wrong: float) -> None:
    with pytest.raises(ValueError, match="position 1 has the probability"):
        choose_positions([0.5, wrong], 5, 0.05)


def test_the_papers_numbers() -> None:
    assert (PAPER_SAMPLING["QA"].positions, PAPER_SAMPLING["QA"].calls, PAPER_SAMPLING["QA"].threshold) == (
        *(5, 5),
        0.05,
    )
    for tool in ("Calculator", "MT"):
        chosen = PAPER_SAMPLING[tool]
        assert (chosen.positions, chosen.calls, chosen.threshold) == (20, 10, 0.0)
        assert rules.PAPER_THRESHOLDS[tool] == 0.5
    assert set(PAPER_SAMPLING) == set(rules.PAPER_THRESHOLDS)


# --- the weighted loss ---


def test_weights_fall_by_a_fifth_and_sum_to_one() -> None:
    assert WINDOW == 5
    assert pytest.approx(WEIGHTS) == (5 / 15, 4 / 15, 3 / 15, 2 / 15, 1 / 15)
    assert sum(WEIGHTS) == pytest.approx(1, abs=1e-15)
    assert loss_weights(0.5) == pytest.approx((2 / 3, 1 / 3))
    assert loss_weights(1) == (1.0,)
    with pytest.raises(ValueError, match="the slope is 0"):
        loss_weights(0)


def test_the_loss_of_equally_improbable_tokens_is_their_surprise() -> None:
    """Weights that do not sum to 1 would give 3 times as much, and τ_f would mean something else."""
    assert weighted_loss([-2.0] * 5) == pytest.approx(2.0)


def test_the_loss_worked_out_by_hand() -> None:
    # 5/15 · 1 + 4/15 · 2 + 3/15 · 3 + 2/15 · 4 + 1/15 · 5 = 35/15; what comes after does not count.
    assert weighted_loss([-1.0, -2.0, -3.0, -4.0, -5.0, -99.0]) == pytest.approx(35 / 15)
    # At the end of a text the weights stay: 5/15 · 3 + 4/15 · 6.
    assert weighted_loss([-3.0, -6.0]) == pytest.approx(2.6)
    with pytest.raises(ValueError, match="no token after the call"):
        weighted_loss([])


def test_the_first_tokens_count_most() -> None:
    """An unweighted window would not tell these two apart."""
    assert weighted_loss([-5.0, 0.0, 0.0, 0.0, 0.0]) > weighted_loss([0.0, 0.0, 0.0, 0.0, -5.0])


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=12))
def test_the_loss_is_that_of_the_formula_in_float64(logprobs: list[float]) -> None:
    unnormalised = np.maximum(0.0, 1.0 - 0.2 * np.arange(1_000, dtype=np.float64))
    weights = unnormalised / unnormalised.sum()
    expected = -sum(weights[t] * logprob for t, logprob in enumerate(logprobs))
    assert weighted_loss(logprobs) == pytest.approx(expected, abs=1e-12)


def test_a_call_must_beat_both_no_call_and_a_call_without_its_result() -> None:
    assert Losses(3.0, 2.5, 1.0).reduction == 1.5
    assert Losses(2.0, 2.5, 1.0).reduction == 1.0
    assert Losses(1.0, 1.0, 1.5).reduction == -0.5


def test_what_is_not_scored_yet_bounds_the_reduction() -> None:
    assert Losses(2.0, None, None).reduction is None
    assert Losses(2.0, None, None).most_reduction == 2.0
    assert Losses(2.0, None, 0.5).most_reduction == 1.5
    assert Losses(2.0, 1.0, 0.5).most_reduction == 0.5


def test_the_prefixes_are_nothing_the_call_and_the_call_with_its_result() -> None:
    call = Call("Calculator", "400 / 1400", "0.29")
    assert prefixes(call) == ("", "[Calculator(400 / 1400) →]", "[Calculator(400 / 1400) → 0.29]")
    for result in (None, ""):
        with pytest.raises(ValueError, match=r"\[Calculator\(1.*has no result"):
            prefixes(Call("Calculator", "1", result))


# --- rules ---


LEAST = " against at least 1.0"


def candidates(*rows: dict[str, Any]) -> pl.DataFrame:
    """Candidates that differ from a good one by what the rows say."""
    good = {
        "text_id": "text:1",
        "position": 4,
        "tool": "QA",
        "arguments": '"a?"',
        "result": "b",
        "problem": None,
        "loss_no_call": 3.0,
        "loss_call": 3.5,
        "loss_call_with_result": 1.0,
    }
    schema: dict[str, type[pl.DataType]] = {"candidate_id": pl.String, **dict.fromkeys(good, pl.String)}
    schema |= {"position": pl.Int64, **{name: pl.Float64 for name in good if name.startswith("loss")}}
    frame = pl.DataFrame(
        [{"candidate_id": f"call:{n}", **good, **row} for n, row in enumerate(rows)], schema=schema
    )
    return with_keys(frame)


def with_keys(frame: pl.DataFrame) -> pl.DataFrame:
    """With the types of the tables, and as if the text of each `text_id` were that id."""
    frame = frame.with_columns(pl.col("position").cast(pl.Int32))
    return frame.with_columns(text_key=pl.col("text_id").map_elements(seed_of, return_dtype=pl.Int64))


def test_the_loss_reduction_of_a_frame_is_that_of_losses() -> None:
    frame = candidates({}, {"loss_call": 2.0}, {"loss_call": None}, {"loss_call_with_result": None})
    assert frame.select(rules.LOSS_REDUCTION)["loss_reduction"].to_list() == [
        *(Losses(3.0, 3.5, 1.0).reduction, Losses(3.0, 2.0, 1.0).reduction),
        *(None, None),
    ]


def test_calls_go_through_all_rules_in_order() -> None:
    frame = candidates(
        {},
        {"problem": "division by zero", "result": None, "loss_call": None},
        {"result": " ", "position": 5},
        {},
        {"position": 6, "loss_call": 1.5},
        {"position": 7, "loss_no_call": 1.9, "loss_call": None},
        {"position": 10, "loss_no_call": 0.25, "loss_call": None, "loss_call_with_result": None},
        {"arguments": '"c?"', "loss_no_call": 2.5},
        {"tool": "Calculator", "position": 8, "loss_no_call": 1.5},
        {"tool": "Weather", "position": 9, "loss_no_call": 1.75},
    )
    kept, decisions = rules.filter_calls(frame, rules.CallThresholds(), seed=1)
    assert dict(decisions.schema) == DECISION_COLUMNS
    assert kept.select("candidate_id", "loss_reduction").rows() == [("call:0", 2.0), ("call:8", 0.5)]
    dropped = decisions.filter(~pl.col("kept"))
    assert dropped.select("candidate_id", "rule", "score", "threshold", "reason", "nearest_id").rows() == [
        ("call:1", "has_result", None, None, "division by zero", None),
        ("call:2", "has_result", None, None, "the tool returned nothing", None),
        ("call:3", "repeated_call", None, None, "the same call as call:0", "call:0"),
        ("call:4", "loss_reduction", 0.5, 1.0, "lowers the loss by 0.5 nats against at least 1.0", None),
        *(
            (f"call:{n}", "loss_reduction", None, 1.0, f"lowers the loss by at most {most} nats{LEAST}", None)
            for n, most in ((5, 0.9), (6, 0.25))
        ),
        ("call:9", "loss_reduction", 0.75, 1.0, "lowers the loss by 0.75 nats against at least 1.0", None),
        (
            *("call:7", "best_at_position", 1.5, None),
            *("call:0 at the same position helps more", "call:0"),
        ),
    ]


def test_thresholds_below_that_of_the_scoring_pass_are_refused() -> None:
    frame = candidates(
        {}, {"position": 5, "loss_no_call": 0.75, "loss_call": None, "loss_call_with_result": None}
    )
    assert rules.counts_at(frame, [1.0, 2.0])["calls"].to_list() == [1, 1]
    with pytest.raises(
        ValueError, match="1 calls, the first call:1, could pass but were not scored to the end"
    ):
        rules.counts_at(frame, [0.5])
    with pytest.raises(ValueError, match="score again with a least reduction"):
        rules.filter_calls(frame, rules.CallThresholds({"QA": 0.75}), seed=1)
    with pytest.raises(ValueError, match="could pass but were not scored"):
        rules.counts_at(candidates({"loss_no_call": None}))


def test_a_reduction_at_the_threshold_is_kept() -> None:
    decided = rules.reduces_loss({"QA": 2.0})(candidates({}).with_columns(rules.LOSS_REDUCTION))
    assert decided.row(0, named=True)["kept"]


def test_rules_can_be_switched_off() -> None:
    frame = candidates({}, {"arguments": '"c?"'})
    loose = rules.CallThresholds({"QA": -9.0}, one_at_a_position=False, most_texts=None)
    kept, decisions = rules.filter_calls(frame, loose, seed=1)
    assert kept.height == 2
    assert set(decisions["rule"]) == {"has_result", "repeated_call", "loss_reduction"}
    assert rules.filter_calls(candidates(), loose, seed=1)[0].is_empty()


def test_the_ablation_keeps_as_many_calls_of_each_tool_at_random() -> None:
    rows = pl.DataFrame(
        [
            {
                "candidate_id": f"c{n}",
                "text_id": f"t{n % 20}",
                "position": n // 40,
                "tool": ("QA", "MT")[n % 2],
                "arguments": str(n),
                "result": "r",
                "problem": None,
                "loss_no_call": 3.0,
                "loss_call": 3.0,
                "loss_call_with_result": 0.1 if n % 8 < 2 else 2.9,
            }
            for n in range(400)
        ]
    )
    rows = with_keys(rows)
    by_loss, _ = rules.filter_calls(rows, rules.CallThresholds(), seed=0)
    drawn, decisions = rules.filter_calls(rows, rules.CallThresholds(by_lot=True), seed=0)
    count = {"QA": by_loss.filter(tool="QA").height, "MT": by_loss.filter(tool="MT").height}
    assert {tool: drawn.filter(tool=tool).height for tool in count} == count
    assert 0 < drawn.filter(pl.col("loss_reduction") > 1).height < drawn.height
    assert drawn.select("text_id", "position").is_duplicated().sum() == 0
    assert set(decisions["rule"]) == {"has_result", "repeated_call", "drawn_by_lot", "texts_per_tool"}
    other, _ = rules.filter_calls(rows, rules.CallThresholds(by_lot=True), seed=1)
    assert set(other["candidate_id"]) != set(drawn["candidate_id"])


def test_at_most_so_many_texts_a_tool_whatever_their_order() -> None:
    rows = [{"text_id": f"text:{n}", "position": place} for n in range(9) for place in (1, 2)]
    frame = candidates(*rows, {"tool": "MT"})
    decided = rules.at_most_texts_per_tool(4, seed=1)(frame)
    kept = frame.join(decided.filter("kept"), on="candidate_id", how="semi")
    assert kept.filter(tool="QA")["text_id"].n_unique() == 4
    assert kept.filter(tool="QA").height == 8  # a text keeps all its calls
    assert kept.filter(tool="MT").height == 1
    backwards = rules.at_most_texts_per_tool(4, seed=1)(frame.reverse()).filter("kept")
    assert sorted(backwards["candidate_id"]) == sorted(kept["candidate_id"])
    assert rules.CallThresholds().most_texts == 25_000


def test_examples_are_counted_at_three_thresholds_from_one_scoring_pass() -> None:
    reductions = [0.4, 0.5, 1.0, 1.5, 2.0, 3.0]
    rows = [
        {"text_id": f"text:{n // 2}", "position": n, "loss_no_call": 1.0 + reduction, "loss_call": 9.0}
        for n, reduction in enumerate(reductions)
    ]
    failed = {"tool": "MT", "problem": "too long", "result": None}
    counts = rules.counts_at(candidates(*rows, rows[5], failed))
    assert counts.columns == ["tool", "threshold", "examples", "calls"]
    assert counts.rows() == [
        *(("QA", 0.5, 3, 5), ("MT", 0.5, 0, 0)),
        *(("QA", 1.0, 2, 4), ("MT", 1.0, 0, 0)),
        *(("QA", 2.0, 1, 2), ("MT", 2.0, 0, 0)),
    ]


def test_all_calls_of_a_text_go_into_one_example() -> None:
    frame = candidates(
        {"position": 11, "tool": "Calculator", "arguments": "3 + 4", "result": "7"},
        {"text_id": "text:2", "position": 0, "tool": "Calendar", "arguments": "", "result": "Today."},
        {"position": 5, "arguments": '"who?"', "result": "Nina"},
    )
    texts = {"text:1": "Nina keeps 7 plums.", "text:2": "Now."}
    made = rules.training_texts(frame, texts)
    assert made.rows() == [
        ("text:2", "[Calendar() → Today.] Now.", ["call:1"], ["Calendar"]),
        (
            "text:1",
            'Nina [QA("who?") → Nina] keeps [Calculator(3 + 4) → 7] 7 plums.',
            ["call:2", "call:0"],
            ["QA", "Calculator"],
        ),
    ]
    assert rules.training_texts(candidates(), {}).is_empty()
