"""What refinement came to: held-out accuracy after each round, what it took, and why tasks were done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from selfimprove_dagster.dialogue_exam import GREEDY
from selfimprove_dagster.measurement import Accuracy, PairedComparison
from selfimprove_dagster.methods.refinement import WAYS

ORIGINAL = "original"
_PLACE = ["source_file", "source_line"]


@dataclass(frozen=True)
class AfterRound:
    """Held-out answers of one way after `round` rounds; 0 are the first answers, of no way (`original`).

    `tokens` are the mean a prompt, read and drawn, of all that led there. `against_original` compares with
    the first answers to the same prompts.
    """

    way: str
    round: int
    correct: Accuracy
    helpful: Accuracy
    harmless: Accuracy
    tokens: float
    against_original: PairedComparison


def after_rounds(rows: pl.DataFrame) -> list[AfterRound]:
    """Of the rows of an evaluation: the first answers, then way by way, round by round."""
    first = rows.filter(mode=GREEDY)
    found = [_measured(ORIGINAL, 0, first, first)] if len(first) else []
    for way in WAYS:
        numbers = rows["mode"].str.extract(rf"^{way}_(\d+)$").cast(pl.Int64).drop_nulls().unique().sort()
        for number in numbers:
            found.append(_measured(way, number, rows.filter(mode=f"{way}_{number}"), first))
    return found


def curves(measured: list[AfterRound]) -> dict[str, list[AfterRound]]:
    """By way, its rounds, each starting with the first answers."""
    start = [one for one in measured if one.way == ORIGINAL]
    ways = dict.fromkeys(one.way for one in measured if one.way != ORIGINAL)
    return {way: [*start, *(one for one in measured if one.way == way)] for way in ways}


def stops(rows: pl.DataFrame) -> Mapping[str, Mapping[str, int]]:
    """By way: why its held-out tasks were done, and how many for each reason."""
    found = {}
    for way, rounds in curves(after_rounds(rows)).items():
        last = rows.filter(mode=f"{way}_{rounds[-1].round}")
        found[way] = dict(last["stopped"].drop_nulls().value_counts(sort=True).iter_rows())
    return found


def _measured(way: str, number: int, rows: pl.DataFrame, first: pl.DataFrame) -> AfterRound:
    both = first.select(*_PLACE, before="correct").join(rows, on=_PLACE, how="inner")
    correct, helpful, harmless = (
        Accuracy(int(rows[name].sum()), len(rows)) for name in ("correct", "helpful", "harmless")
    )
    return AfterRound(
        way,
        number,
        correct,
        helpful,
        harmless,
        tokens=int((rows["tokens_in"] + rows["tokens_out"]).sum()) / max(len(rows), 1),
        against_original=PairedComparison.of(both["before"].to_list(), both["correct"].to_list()),
    )
