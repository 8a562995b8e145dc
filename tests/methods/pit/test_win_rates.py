"""Who wins: contests, judges, and the table of them, against cases worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pytest
from kit.models import ByteModel

from selfimprove_dagster import registry
from selfimprove_dagster.evaluation.measurement import PairedComparison
from selfimprove_dagster.families.dialogues.constitution import HOUSEHOLD, load_constitution
from selfimprove_dagster.families.dialogues.files import HeldOutPrompt
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.methods.pit.exam import chosen_responses, preferred_by_truth
from selfimprove_dagster.methods.pit.win_rates import (
    CHOSEN,
    CONTESTS,
    Contest,
    contests,
    outcome,
    preferred_by,
    win_rates,
)
from selfimprove_dagster.prompts import load_prompts

PLACE = {"source_file": "heldout.jsonl", "source_line": 1}


def rounds(*rows: tuple[str, int, str]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "id": f"round:{way}{number}",
                "way": way,
                "round": number,
                "text": text,
                "question": "Who?",
                **PLACE,
            }
            for way, number, text in rows
        ]
    )


def test_each_way_competes_with_its_last_answer_and_pit_with_that_of_one_round() -> None:
    made = rounds(
        ("original", 0, "first"),
        ("pit", 1, "better"),
        ("pit", 2, "later"),
        ("self_refine", 1, "once"),
        ("self_refine", 2, "twice"),
        ("untaught", 1, "nobody asks"),
    )
    met = contests(made, 1, {("heldout.jsonl", 1): "liked"})
    assert [(one.first, one.second) for one in met] == [*CONTESTS]
    texts = {(one.first, one.second): one.texts for one in met}
    assert texts["original", CHOSEN] == ("first", "liked")
    assert texts["pit", "original"] == ("better", "first")
    assert texts["pit", "self_refine"] == ("better", "twice")
    assert texts["reflexion", "original"] == ("first", "first"), "it was content with the original"
    assert [one.ids[1] for one in met if one.second == CHOSEN] == [None], "what people chose is no record"
    assert len(contests(made, 1, {})) == len(CONTESTS) - 1


def test_pit_competes_with_the_empty_text_that_ended_its_rounds() -> None:
    met = contests(rounds(("original", 0, "first"), ("pit", 1, "")), 2, {})
    assert next(one.texts for one in met if one.first == "pit") == ("", "first")


def contest(first: str, second: str, line: int = 1) -> Contest:
    return Contest(
        "pit", "original", "Who?", ("heldout.jsonl", line), ("round:1", "round:2"), (first, second)
    )


def test_the_truth_puts_harmless_before_helpful() -> None:
    prompt = HeldOutPrompt(
        "Who?", "heldout.jsonl", 1, "MIT", wanted=(("Greta",),), unwanted=("oaf",), chosen="Greta."
    )
    better = [("Greta.", "Nobody."), ("Nobody.", "Greta, you oaf."), ("Greta.", "Greta, you oaf.")]
    asked = [contest(*texts) for texts in better]
    assert preferred_by_truth(asked, [prompt]) == [1.0, 1.0, 1.0]
    assert preferred_by_truth([contest(*reversed(texts)) for texts in better], [prompt]) == [0.0, 0.0, 0.0]
    assert preferred_by_truth([contest("Greta did.", "Greta.")], [prompt]) == [0.5]
    assert chosen_responses([prompt]) == {("heldout.jsonl", 1): "Greta."}


class Judge(ByteModel):
    """Finds (A) likelier by what it likes, and counts what it is asked."""

    def __init__(self, likes: Callable[[str], float]) -> None:
        self.likes, self.asked = likes, 0

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        self.asked += len(contexts)
        found = [self.likes(self.decode(context)) for context in contexts]
        return [[probability, 1 - probability] for probability in found]


def judged_by(likes: Any, *asked: Contest) -> tuple[list[float], int]:
    judge = Judge(likes)
    prompts = load_prompts(registry.method("pit").prompts, TEXT)
    said = preferred_by(judge, prompts, asked, load_constitution(HOUSEHOLD), 1, (0,))  # type: ignore[arg-type]
    return said, judge.asked


def test_a_model_is_asked_in_both_orders_and_never_of_equal_texts() -> None:
    said, asked = judged_by(
        lambda text: 0.9 if "(A) good" in text else 0.3, contest("good", "bad"), contest("a", "a", 2)
    )
    assert said == [pytest.approx((0.9 + 0.7) / 2), 0.5] and asked == 2


def test_a_model_that_always_takes_the_first_decides_nothing() -> None:
    said, _ = judged_by(lambda text: 0.9, contest("good", "bad"))
    assert [outcome(one) for one in said] == ["tie"]


def test_wins_losses_and_ties_are_counted_and_delta_has_its_interval() -> None:
    outcomes = [outcome(preferred) for preferred in (0.9, 0.51, 0.5, 0.2)]
    assert outcomes == ["win", "win", "tie", "loss"]
    rows = pl.DataFrame({"first": "pit", "second": "original", "judge": "x", "outcome": outcomes})
    (row,) = win_rates(rows)
    assert (row["wins"], row["losses"], row["ties"], row["delta"]) == (2, 1, 1, 0.25)
    assert row["interval"] == PairedComparison(4, 2, 1).interval
