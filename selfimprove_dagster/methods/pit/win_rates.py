"""Who wins on held-out prompts: the table of PIT's paper (Wang et al., 2310.00898, section 4).

A contest sets two responses to one prompt against each other. A program that knows the truth decides it
(`win_rate_exam`), or a model that compares them in both orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from selfimprove_dagster.evaluation.measurement import PairedComparison
from selfimprove_dagster.families.dialogues.constitution import Constitution
from selfimprove_dagster.families.judging.comparing import Advance, Pair, compare_pairs
from selfimprove_dagster.families.judging.settings import JudgeSection
from selfimprove_dagster.families.refining.ways import REFLEXION, SELF_REFINE
from selfimprove_dagster.families.refining.ways import is_unchanged as are_alike
from selfimprove_dagster.language_model.base import LanguageModel
from selfimprove_dagster.language_model.options import Unscored
from selfimprove_dagster.methods.pit.improving import ORIGINAL, PIT
from selfimprove_dagster.prompts import Prompts

CHOSEN = "chosen"
"""The response that people preferred, y_w."""


CONTESTS = (
    (ORIGINAL, CHOSEN),
    (PIT, ORIGINAL),
    (SELF_REFINE, ORIGINAL),
    (PIT, SELF_REFINE),
    (REFLEXION, ORIGINAL),
)


TRUTH, ITSELF = "ground truth", "the model itself"
"""Judges; others are called by the path of their model."""


WIN, LOSS, TIE = "win", "loss", "tie"


_ROUNDING = 1e-9


_PLACE = ["source_file", "source_line"]


@dataclass(frozen=True)
class Contest:
    """Responses of two ways to one held-out prompt; what people chose is no record and has no id."""

    first: str
    second: str
    question: str
    place: tuple[str, int]
    ids: tuple[str, str | None]
    texts: tuple[str, str]

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.first} {self.second} {self.place}"


def contests(rounds: pl.DataFrame, round_: int, chosen: dict[tuple[str, int], str]) -> list[Contest]:
    """All contests between the responses of `improvement_rounds`, prompt by prompt.

    PIT's is that of round `round_`, or the last before it where an empty one ended the rounds; the other ways compete
    with their last one, and with the original where nothing was changed. `chosen`: y_w by place in the file, where it
    is known.
    """
    originals = rounds.filter(way=ORIGINAL).sort(_PLACE)
    said = {
        way: {
            (row["source_file"], row["source_line"]): (row["id"], row["text"])
            for row in rounds.filter(way=way).sort("round").iter_rows(named=True)
            if way != PIT or row["round"] <= round_
        }
        for way in (PIT, SELF_REFINE, REFLEXION)
    }
    found = []
    for row in originals.iter_rows(named=True):
        place = row["source_file"], row["source_line"]
        by_way: dict[str, tuple[str | None, str]] = {ORIGINAL: (row["id"], row["text"])}
        by_way |= {way: made.get(place, (row["id"], row["text"])) for way, made in said.items()}
        if place in chosen:
            by_way[CHOSEN] = None, chosen[place]
        for first, second in CONTESTS:
            if second in by_way:
                (one, text), (other, against) = by_way[first], by_way[second]
                assert one is not None
                found.append(Contest(first, second, row["question"], place, (one, other), (text, against)))
    return found


def preferred_by(
    model: LanguageModel,
    prompts: Prompts,
    asked: Sequence[Contest],
    constitution: Constitution,
    principles: int,
    seeds_from: Sequence[str | int],
    advance: Advance = lambda rows, tokens: None,
) -> list[float | Unscored]:
    """The probability that the first response of each contest is the better, averaged over both orders and
    the principles; one half, unasked, where both are the same text. Or why the judge could not compare them.
    """
    section = JudgeSection(principles=principles, repeated_share=0.0)
    different = [one for one in asked if not are_alike(*one.texts)]
    pairs = [Pair(one.key, one.question, (one.key, f"{one.key} against"), one.texts) for one in different]
    said: dict[str, list[float]] = {}
    unscored: dict[str, Unscored] = {}
    for draft in compare_pairs(model, prompts, pairs, constitution, section, seeds_from, advance):
        key, first = draft.content["prompt_id"], draft.measures["probability_a"]
        if first is None:
            unscored.setdefault(key, Unscored(draft.measures["problem"]))
            continue
        said.setdefault(key, []).append(first if draft.content["order"] == 0 else 1 - first)
    advance(len(asked) - len(different), 0)
    return [
        unscored[one.key]
        if one.key in unscored
        else sum(told) / len(told)
        if (told := said.get(one.key))
        else 0.5
        for one in asked
    ]


def outcome(preferred: float | Unscored) -> str:
    """What a contest came to, by how much its first response is preferred, from 0 to 1.

    One that could not be judged is a tie: nobody won it, and it stays among those that are counted.
    """
    if isinstance(preferred, Unscored):
        return TIE
    if abs(preferred - 0.5) < _ROUNDING:
        return TIE
    return WIN if preferred > 0.5 else LOSS


def win_rates(rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Of rows of contests: who met whom by which judge, with wins, losses and ties of the first, and Δ, wins
    less losses over all prompts, with its 95% interval (that of `PairedComparison`).
    """
    for first, second in CONTESTS:
        met = rows.filter(first=first, second=second)
        for judge in met["judge"].unique(maintain_order=True):
            counts = dict(met.filter(judge=judge).group_by("outcome").len().iter_rows())
            wins, losses, ties = (counts.get(name, 0) for name in (WIN, LOSS, TIE))
            compared = PairedComparison(wins + losses + ties, wins, losses)
            yield {
                "first": first,
                "second": second,
                "judge": judge,
                "wins": wins,
                "losses": losses,
                "ties": ties,
                "delta": compared.difference,
                "interval": compared.interval,
            }
